import collections
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from amdjax.data import describe_dataset, load_dataset
from amdjax.data.sources import InMemorySource, StreamedSource, read_entries
from amdjax.data.splits import hold_out, known_labels
from amdjax.errors import UserError
from tests.make_data import data_settings, encode, write_folder


@pytest.fixture(scope="module")
def digits_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the prepared digits."""
    data_dir = tmp_path_factory.mktemp("digits")
    load_dataset(data_settings("digits", data_dir))
    return data_dir


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


@pytest.mark.parametrize("memory_gib", [0.0, 1.0])
def test_unknown_classes_are_in_no_split(digits_dir, memory_gib):
    whole = load_dataset(data_settings("digits", digits_dir))
    settings = {"memory_gib": memory_gib, "validation": 0.1, "unknown_classes": ("7", 2)}
    dataset = load_dataset(data_settings("digits", digits_dir, **settings))
    assert dataset.class_names == tuple("01345689") == dataset.fingerprint.class_names
    assert whole.unknown is None and len(dataset.train) + len(dataset.validation) < 1437
    images, labels = whole.test.read(np.arange(360))
    is_unknown = np.isin(labels, (2, 7))
    known_images, known_labels = dataset.test.read(np.arange(len(dataset.test)))
    np.testing.assert_array_equal(known_images, images[~is_unknown])
    names = np.array(dataset.class_names)[known_labels]
    assert names.tolist() == [str(label) for label in labels[~is_unknown]]
    unknown_images, unknown_labels = dataset.unknown.read(np.arange(len(dataset.unknown)))
    np.testing.assert_array_equal(unknown_images, images[is_unknown])
    np.testing.assert_array_equal(unknown_labels, labels[is_unknown])
    for source in (dataset.train, dataset.validation):
        assert set(read_entries(source)[1]) == set(range(8))
    spec = describe_dataset(data_settings("digits", digits_dir, **settings))
    assert spec.num_classes == dataset.num_classes == 8


def test_prepared_labels_are_read_once(digits_dir, monkeypatch):
    for file in digits_dir.rglob("entries-*.npz"):
        file.unlink()
    settings = {"memory_gib": 0.0, "validation": 0.1, "unknown_classes": ("7",)}
    entries = StreamedSource.entries
    read = collections.Counter()

    def count(source, indices):
        read[source.name] += len(indices)
        return entries(source, indices)

    monkeypatch.setattr(StreamedSource, "entries", count)
    first, second = (
        load_dataset(data_settings("digits", digits_dir, **settings)) for _ in range(2)
    )
    assert read == {"digits train": 1437, "digits test": 360}
    for split in ("train", "validation", "test", "unknown"):
        ours, theirs = getattr(first, split), getattr(second, split)
        assert read_entries(ours)[0] == read_entries(theirs)[0]
    train, validation = (read_entries(source)[1] for source in (first.train, first.validation))
    assert set(train) == set(validation) == set(range(9))
    labels = np.concatenate([train, validation])
    counts = [len(labels[labels == label]) for label in range(9)]
    whole = read_entries(load_dataset(data_settings("digits", digits_dir)).train)[1]
    assert counts == [np.sum(whole == label) for label in range(10) if label != 7]


def test_known_labels_number_the_classes_in_their_order():
    assert known_labels("abcd", ()).tolist() == [0, 1, 2, 3]
    assert known_labels("abcd", ("c", "a")).tolist() == [-1, 0, -1, 1]


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        (("3", "x"), "unknown class in config.data.unknown_classes 'x'; known: 0, 1, 2"),
        (("3", 3), "config.data.unknown_classes has duplicates: 3, 3"),
        (tuple(range(9)), "holds out 9 of 10 classes; at least two must be left"),
    ],
)
def test_unknown_classes_are_checked_before_preparing(tmp_path, unknown, message):
    with pytest.raises(UserError, match=message):
        describe_dataset(data_settings("digits", tmp_path, unknown_classes=unknown))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [("cifar10", 10), ("cifar100", 100), ("imagenet", 1000), ("tiny_imagenet", 200)],
)
def test_describe_dataset_counts_known_classes_before_preparing(tmp_path, name, num_classes):
    def describe(*unknown):
        return describe_dataset(
            data_settings(name, tmp_path, image_size=32, unknown_classes=unknown)
        )

    assert (describe().num_classes, describe().image_shape) == (num_classes, (32, 32, 3))
    assert describe("cat", "dog").num_classes == num_classes - 2
    with pytest.raises(UserError, match="has duplicates: cat, cat"):
        describe("cat", "cat")
    with pytest.raises(UserError, match=f"holds out {num_classes} of {num_classes} classes"):
        describe(*range(num_classes))
    assert not list(tmp_path.iterdir())


def test_load_dataset_holds_train_in_memory_first(digits_dir):
    dataset = load_dataset(data_settings("digits", digits_dir, memory_gib=1500 * 3072 / 2**30))
    assert isinstance(dataset.train, InMemorySource)
    assert isinstance(dataset.test, StreamedSource)


def test_data_dir_falls_back_to_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(digits_dir))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)  # must not be used
    assert len(load_dataset(data_settings("digits", "")).train) == 1437


def test_validation_holds_out_a_part_of_the_training_images(digits_dir):
    whole = load_dataset(data_settings("digits", digits_dir))
    data = data_settings("digits", digits_dir, validation=0.1)
    dataset = load_dataset(data)
    assert dataset.fingerprint.num_images == {"train": 1295, "test": 360, "validation": 142}
    assert (dataset.selection_split, whole.selection_split) == ("validation", "test")
    assert dataset.selection is dataset.validation
    images, labels = whole.train.arrays()
    held_out = hold_out(labels, map(str, range(1437)), 0.1, 0)
    for source, rows in ((dataset.train, ~held_out), (dataset.validation, held_out)):
        np.testing.assert_array_equal(source.arrays()[0], images[rows])
        np.testing.assert_array_equal(source.arrays()[1], labels[rows])
    data.memory_gib = 0.0
    streamed = load_dataset(data).validation
    assert isinstance(streamed, StreamedSource)
    np.testing.assert_array_equal(streamed.read(np.arange(142))[0], images[held_out])


@pytest.mark.parametrize("table", [False, True])
def test_validation_images_of_a_folder_stay_when_an_image_is_added(tmp_path, table):
    root = write_folder(tmp_path / "images", classes=2, per_class=12, size=8)
    if table:
        rows = [
            f"{file.relative_to(root)},{file.parent.name},{file.parts[-3]}"
            for file in sorted(root.glob("*/*/*.png"))
        ]
        for split in ("train", "test"):
            (root / split).rename(root / f"{split}_images")
        rows = [row.replace("/class", "_images/class", 1) for row in rows]
    data = data_settings("folder", tmp_path, folder=str(root), image_size=8, validation=0.25)

    def held_out():
        if table:
            (root / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")
        dataset = load_dataset(data)
        train, validation = (
            {image.tobytes() for image in source.read(np.arange(len(source)))[0]}
            for source in (dataset.train, dataset.validation)
        )
        return train, validation

    train, validation = held_out()
    assert (len(train), len(validation)) == (18, 6)
    folder = "train_images" if table else "train"
    # The first of its class: with numbers in place of names all others would be chosen again.
    (root / folder / "class_0/!.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8)))
    if table:
        rows.append("train_images/class_0/!.png,class_0,train")
    new_train, new_validation = held_out()
    assert len(new_train) + len(new_validation) == 25
    assert len(validation & new_train) <= 1
    assert len(train & new_validation) <= 1


def test_validation_depends_on_its_seed(digits_dir):
    one, other = (
        load_dataset(data_settings("digits", digits_dir, validation=0.1, validation_seed=seed))
        for seed in (0, 1)
    )
    assert one.fingerprint == other.fingerprint
    assert (one.validation.arrays()[0] != other.validation.arrays()[0]).any()


def test_random_crops_are_of_training_images_only(digits_dir):
    changes = {"random_resized_crop": True, "image_size": 32, "validation": 0.1}
    dataset = load_dataset(data_settings("digits", digits_dir, **changes))
    rows = np.arange(8)
    for source, is_random in (
        (dataset.train, True),
        (dataset.validation, False),
        (dataset.test, False),
    ):
        one, other = (source.read(rows, crop_seed=(0, epoch))[0] for epoch in (0, 1))
        assert (one != other).any() == is_random


def test_validation_error_on_settings_that_exclude_each_other(tmp_path):
    data = data_settings("digits", tmp_path, validation_split="val")
    with pytest.raises(UserError, match="is for data set 'folder', not for 'digits'"):
        load_dataset(data)
    data.update({"name": "folder", "folder": str(tmp_path), "validation": 0.1})
    with pytest.raises(UserError, match="validation_split='val' exclude each other"):
        load_dataset(data)
