"""Images of unknown classes: held-out classes, another data set, or a folder."""

import numpy as np
import pytest

from amdjax.data import DATASETS, Dataset, InMemorySource, load_dataset
from amdjax.data.registry import ArrayEntry
from amdjax.data.unknown import check_unknown, open_unknown
from amdjax.errors import UserError
from tests.make_data import data_settings, encode, random_images, write_folder


@pytest.fixture
def arrays(monkeypatch):
    """A registered data set of twelve training and six test images in three classes."""

    def load(split):
        count = 12 if split == "train" else 6
        return random_images(count, 16, 16, 3, seed=count), np.arange(count) % 3

    monkeypatch.setitem(DATASETS, "arrays", ArrayEntry(load, ("a", "7", "c"), "random"))
    return load


def _dataset(size=16):
    source = InMemorySource(random_images(4, size, size, 3), np.arange(4, dtype=np.int32) % 2)
    return Dataset("known", ("x", "y"), (size, size, 3), source, source)


def _settings(data_dir, unknown="", **changes):
    return data_settings(changes.pop("name", "known"), data_dir, unknown=str(unknown), **changes)


def test_open_unknown_returns_the_classes_that_are_held_out(arrays, tmp_path):
    data = _settings(tmp_path, name="arrays", unknown_classes=(7,))
    dataset = load_dataset(data)
    assert dataset.class_names == ("a", "c")
    (images, labels), rows = arrays("test"), np.array([0, 2, 3, 5])
    np.testing.assert_array_equal(dataset.test.read(np.arange(4))[0], images[rows])
    assert dataset.test.read(np.arange(4))[1].tolist() == [0, 1, 0, 1]
    assert dataset.train.arrays()[1].tolist() == [0, 1] * 4
    unknown = open_unknown(dataset, data)
    assert unknown.description == "the classes 7"
    np.testing.assert_array_equal(unknown.source.read(np.arange(2))[0], images[labels == 1])
    data.unknown_classes = ()
    assert open_unknown(load_dataset(data), data) is None


def test_open_unknown_reads_the_test_split_of_another_data_set(arrays, tmp_path):
    unknown = open_unknown(_dataset(), _settings(tmp_path, "arrays", validation=0.5))
    assert (unknown.description, len(unknown.source)) == ("arrays", 6)
    np.testing.assert_array_equal(unknown.source.read(np.arange(6))[0], arrays("test")[0])
    message = r"arrays of 16x16, which are not resized to 8x8: set config\.data\.image_size to 16"
    with pytest.raises(UserError, match=message):
        open_unknown(_dataset(size=8), _settings(tmp_path, "arrays"))


def test_open_unknown_resizes_the_images_of_a_folder(tmp_path):
    (tmp_path / "photos/more").mkdir(parents=True)
    for name, size in (("b.png", 16), ("more/a.png", 40)):
        image = random_images(size, size, 3, seed=size)
        (tmp_path / "photos" / name).write_bytes(encode(image))
    data = _settings(tmp_path, tmp_path / "photos")
    unknown = open_unknown(_dataset(), data)
    images, _ = unknown.source.read(np.arange(2))
    assert unknown.description == str(tmp_path / "photos")
    assert images.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(images[0], random_images(16, 16, 3, seed=16))


@pytest.mark.parametrize("unknown", ["folder", "nowhere", "mnits"])
def test_check_unknown_names_what_is_missing(tmp_path, unknown):
    with pytest.raises(UserError, match=rf"unknown='{unknown}' is neither another data set \(cif"):
        check_unknown(_settings(tmp_path, unknown))


def test_unknown_images_are_refused_where_they_cannot_be(arrays, tmp_path):
    with pytest.raises(UserError, match="'arrays' is the data set of the known classes"):
        check_unknown(_settings(tmp_path, "arrays", name="arrays"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.data\.unknown: .*empty is not a folder with im"):
        open_unknown(_dataset(), _settings(tmp_path, tmp_path / "empty"))


def test_unknown_classes_need_images_of_both_kinds(tmp_path):
    root = write_folder(tmp_path / "set", classes=3, per_class=4, size=8)
    data = _settings(
        tmp_path / "prepared", name="folder", folder=str(root), unknown_classes=("class_1",)
    )
    data.image_size = 8
    dataset = load_dataset(data)
    assert (len(dataset.train), len(dataset.test), len(dataset.unknown)) == (8, 4, 2)
    for file in (root / "test/class_1").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="test split of folder has no images of these classes"):
        load_dataset(data)


def test_unknown_classes_leave_images_for_training(monkeypatch, tmp_path):
    entry = ArrayEntry(
        lambda split: (random_images(4, 8, 8, 3), np.full(4, int(split == "test"))),
        ("a", "b", "c"),
        "one class in each split",
    )
    monkeypatch.setitem(DATASETS, "arrays", entry)
    with pytest.raises(UserError, match="train split of arrays has no images of other classes"):
        load_dataset(_settings(tmp_path, name="arrays", unknown_classes=("a",)))
