"""Data sets of arrays that are registered from outside the package."""

import numpy as np
import pytest

import amdjax
from amdjax.configs import default
from amdjax.data import Fingerprint, describe_dataset, load_dataset
from amdjax.data.splits import known_labels
from amdjax.errors import UserError

BLACK, LABELS = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2


def _arrays(images=BLACK, labels=LABELS, test=None):
    @amdjax.register_dataset("mine", "a data set", class_names=("a", "b"))
    def load(split):
        return (images if split == "train" or test is None else test), labels

    data = default.get_config().data
    data.name = "mine"
    return data


def test_dataset_of_arrays_returns_them_with_a_digest_of_their_content():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    dataset = load_dataset(_arrays(images))
    assert (dataset.class_names, dataset.image_shape) == (("a", "b"), (8, 8, 3))
    read, labels = dataset.train.read(np.array([3, 0]))
    np.testing.assert_array_equal(read, images[[3, 0]])
    assert labels.tolist() == [1, 0] and labels.dtype == np.int32
    changed = images.copy()
    changed[1, 2, 3, 0] ^= 1
    digests = [load_dataset(_arrays(x)).fingerprint.digest for x in (images, images, changed)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 8, 8, 3))}, r"'train': images must be uint8 .* not float64"),
        ({"images": np.zeros((4, 8, 8), np.uint8)}, r"not uint8 \[4, 8, 8\]"),
        ({"labels": np.zeros(4)}, r"labels must be integers \[4\].*not float64"),
        ({"labels": np.arange(3)}, r"labels must be integers \[4\].*not int64 \[3\]"),
        ({"labels": np.arange(4)}, r"labels from 0 to 3 are outside the classes 0\.\.1"),
        ({"test": np.zeros((4, 9, 9, 3), np.uint8)}, "training images .*8, 8, 3.*9, 9, 3"),
    ],
)
def test_dataset_of_arrays_refuses_other_arrays(arrays, message):
    with pytest.raises(UserError, match=message):
        describe_dataset(_arrays(**arrays))


def test_dataset_of_arrays_is_not_resized():
    data = _arrays()
    data.image_size = 8
    describe_dataset(data)
    data.image_size = 16
    with pytest.raises(UserError, match=r"8x8, which are not resized to 16x16: set .* to 8$"):
        describe_dataset(data)
    data.update(image_size=8, random_resized_crop=True)
    with pytest.raises(UserError, match=r"not cropped: set .*random_resized_crop to False"):
        describe_dataset(data)


def test_dataset_of_arrays_has_class_names_in_one_normal_form():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names = (decomposed, "tea", "water")
    amdjax.register_dataset("mine", "a data set", class_names=names)(lambda split: (BLACK, LABELS))
    data = default.get_config().data
    data.name = "mine"
    fingerprint = load_dataset(data).fingerprint
    assert fingerprint.class_names == (composed, "tea", "water")
    assert Fingerprint.from_dict(fingerprint.to_dict()) == fingerprint  # so a run is resumed
    for name in (composed, decomposed):
        assert known_labels(fingerprint.class_names, (name,)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("names", ["ab", ("a",), ("a", "a"), ("caf\u00e9", "cafe\u0301")])
def test_register_dataset_refuses_wrong_class_names(names):
    with pytest.raises(UserError, match="at least two class_names"):
        amdjax.register_dataset("mine", "a data set", class_names=names)
