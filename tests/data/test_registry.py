"""Loading in general, and the digits."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from amdjax.data import DATASETS, load_dataset
from amdjax.errors import UserError
from tests.make_data import data_settings, manual_archive, write_cifar10_archive, write_folder


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory) -> Path:
    data_dir = tmp_path_factory.mktemp("digits")
    load_dataset(data_settings("digits", data_dir))
    return data_dir


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'cifar11'; did you mean cifar10"):
        load_dataset(data_settings("cifar11", tmp_path))
    assert all(entry.summary for entry in DATASETS.values())


def test_digits(digits_dir):
    from sklearn.datasets import load_digits

    dataset = load_dataset(data_settings("digits", digits_dir))
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.num_classes == 10
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    digits = load_digits()
    images, labels = dataset.test.read(np.arange(360))
    np.testing.assert_array_equal(labels, digits.target[1437:])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    small = images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)) * 16 / 255
    assert np.abs(small - digits.images[1437:]).mean() < 0.8  # of 16 grey steps
    assert "tensorflow" not in sys.modules


def test_memory_goes_to_train_first(digits_dir):
    dataset = load_dataset(data_settings("digits", digits_dir, memory_gib=1500 * 3072 / 2**30))
    assert type(dataset.train).__name__ == "InMemorySource"
    assert type(dataset.test).__name__ == "StreamedSource"


def test_data_dir_falls_back_to_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)  # all is there
    assert len(load_dataset(data_settings("digits", "")).train) == 1437


def test_preparing_is_silent_on_stdout(tmp_path, capfd):
    folder = write_folder(tmp_path / "images", per_class=2)
    load_dataset(data_settings("folder", tmp_path, folder=str(folder), image_size=32))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("preparing folder in ")


def test_prepared_as_tfrecord_or_incomplete(tmp_path):
    write_cifar10_archive(manual_archive(tmp_path, "cifar-10-binary.tar.gz"))
    load_dataset(data_settings("cifar10", tmp_path))
    info = tmp_path / "cifar10/3.0.2/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="prepared as tfrecord, which only TensorFlow reads"):
        load_dataset(data_settings("cifar10", tmp_path))
    info.unlink()
    with pytest.raises(UserError, match="holds no complete data set; remove it"):
        load_dataset(data_settings("cifar10", tmp_path))


def test_damaged_prepared_files(tmp_path):
    write_cifar10_archive(manual_archive(tmp_path, "cifar-10-binary.tar.gz"))
    load_dataset(data_settings("cifar10", tmp_path))
    (records,) = tmp_path.glob("cifar10/3.0.2/*train.array_record*")
    records.write_bytes(records.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cifar10.* cannot be read.*; remove"):
        load_dataset(data_settings("cifar10", tmp_path))
    records.unlink()
    with pytest.raises(UserError, match=r"cifar10.* cannot be read.*; remove"):
        load_dataset(data_settings("cifar10", tmp_path))


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot prepare digits in .*file"):
        load_dataset(data_settings("digits", tmp_path / "file"))


def test_another_process_may_prepare_at_the_same_time(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "images", per_class=2)
    data = data_settings("folder", tmp_path, folder=str(folder), image_size=32)
    build = tfds.core.GeneratorBasedBuilder._download_and_prepare

    def build_while_another_finishes(self, *args, **kwargs):
        build(self, *args, **kwargs)
        monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "_download_and_prepare", build)
        load_dataset(data)

    monkeypatch.setattr(
        tfds.core.GeneratorBasedBuilder, "_download_and_prepare", build_while_another_finishes
    )
    assert len(load_dataset(data).train) == 8
