"""Archives are found in the data folder, or downloaded."""

import pytest
import tensorflow_datasets as tfds

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path
from tests.make_data import data_settings


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
    ],
)
def test_find_archive_without_network_says_where_to_put_it(tmp_path, monkeypatch, name, archive):
    def fail(self, url):
        raise ConnectionError(f"no route\nto {url}")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    path = manual_path(tmp_path, archive)
    with pytest.raises(UserError, match=f"no route to http.*put it at {path}$"):
        load_dataset(data_settings(name, tmp_path))
    assert not list(tmp_path.glob("**/dataset_info.json"))
