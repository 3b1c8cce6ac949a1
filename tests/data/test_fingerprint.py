"""Fingerprints: data that changed are told apart, and data that moved are not."""

import shutil

import pytest

from amdjax.configs import folder
from amdjax.data import Fingerprint, load_dataset
from amdjax.data.fingerprint import check_classes, check_images, compare_test_images
from amdjax.errors import UserError

SAVED = Fingerprint("folder", ("cat", "dog"), (8, 8, 3), {"train": 4, "test": 2}, "abc")


def _load(root, data_dir):
    config = folder.get_config()
    config.data.update({"folder": str(root), "data_dir": str(data_dir), "image_size": 16})
    return load_dataset(config.data).fingerprint


def _with(**changes):
    return Fingerprint.from_dict({**SAVED.to_dict(), **changes})


def test_fingerprint_survives_json():
    assert Fingerprint.from_dict(SAVED.to_dict()) == SAVED


def test_fingerprint_of_a_folder_does_not_depend_on_its_place(images, tmp_path):
    here = _load(images, tmp_path / "prepared")
    shutil.copytree(images, tmp_path / "copy", copy_function=shutil.copyfile)  # other times, too
    assert _load(tmp_path / "copy", tmp_path / "prepared") == here
    assert here.num_images == {"train": 64, "test": 32}


def test_fingerprint_of_a_folder_changes_with_its_images(images, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(images, copy)
    before = _load(copy, tmp_path / "prepared")
    removed = next(copy.glob("train/*/*"))
    removed.unlink()
    after = _load(copy, tmp_path / "prepared")
    assert after.class_names == before.class_names
    assert (after.num_images["train"], after.digest != before.digest) == (63, True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "zebra"], r"missing: 'cat'; new: 'zebra'"),
        (["cat", "cow", "dog"], r"\(new: 'cow'\)"),
        (["dog", "cat"], "their order differs"),
    ],
)
def test_check_classes_names_what_differs(names, message):
    check_classes(SAVED, SAVED, "runs/x/kd")
    with pytest.raises(UserError, match=message):
        check_classes(SAVED, _with(class_names=names), "runs/x/kd")


def test_check_images_counts_what_changed():
    assert check_images(SAVED, _with(name="other name"), "runs/x/kd", accept_changes=False) is None
    changed = _with(num_images={"train": 6, "test": 2}, digest="def")
    with pytest.raises(UserError, match=r"train 4 -> 6, test 2 -> 2 images.*accept_changes=True"):
        check_images(SAVED, changed, "runs/x/kd", accept_changes=False)
    accepted = check_images(SAVED, changed, "runs/x/kd", accept_changes=True)
    assert accepted is not None and "train 4 -> 6" in accepted


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"digest": "def"}, "the names or sizes of the files differ"),
        ({"num_images": {"train": 4, "test": 3}, "digest": "def"}, "test 2 -> 3 images"),
        ({"num_images": {"train": 9, "test": 2}, "digest": "def"}, ""),
        ({"digest": "def", "labeled_digest": SAVED.digest}, ""),  # as many without labels
        ({"labeled_digest": "def"}, "the names or sizes of the files differ"),
    ],
)
def test_compare_test_images_ignores_a_digest_of_other_training_images(changes, difference):
    assert compare_test_images(SAVED, SAVED) == ""
    assert compare_test_images(SAVED, _with(**changes)) == difference
