import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from amdjax.data import DATASETS, load_dataset
from amdjax.data.sources import InMemorySource, StreamedSource
from amdjax.errors import UserError
from tests.make_data import data_settings


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the prepared digits."""
    data_dir = tmp_path_factory.mktemp("digits")
    load_dataset(data_settings("digits", data_dir))
    return data_dir


def test_every_entry_has_a_summary():
    assert all(entry.summary for entry in DATASETS.values())


def test_load_dataset_error_suggests_a_name(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'cifar11'; did you mean cifar10"):
        load_dataset(data_settings("cifar11", tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": -1}, "image_size must be at least 0, not -1"),
        ({"random_resized_crop": True}, "random_resized_crop needs config.data.image_size"),
    ],
)
def test_load_dataset_checks_the_settings_before_preparing(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("digits", tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_digits_are_those_of_scikit_learn(digits_dir):
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
    assert np.abs(small - digits.images[1437:]).mean() < 0.8  # of 16 grey levels
    assert "tensorflow" not in sys.modules


def test_load_dataset_holds_train_in_memory_first(digits_dir):
    dataset = load_dataset(data_settings("digits", digits_dir, memory_gib=1500 * 3072 / 2**30))
    assert isinstance(dataset.train, InMemorySource)
    assert isinstance(dataset.test, StreamedSource)


def test_data_dir_falls_back_to_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)  # must not be used
    assert len(load_dataset(data_settings("digits", "")).train) == 1437
