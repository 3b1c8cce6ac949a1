import os
import shutil
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.data.datasets.builder_utils import prepare
from amdjax.data.datasets.folder import Folder, list_folder
from amdjax.errors import UserError
from tests.make_data import class_images, data_settings, encode, write_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "my images", classes=3, per_class=4)


def settings(folder: Path, **changes) -> ml_collections.ConfigDict:
    changes = {"folder": str(folder), "image_size": 32, **changes}
    data_dir = changes.pop("data_dir", folder.parent / "prepared")
    return data_settings("folder", data_dir, **changes)


def prepared(folder: Path) -> set[str]:
    return {path.name for path in (folder.parent / "prepared" / "folder").glob("*")}


def test_pixels_labels_and_names(folder):
    dataset = load_dataset(settings(folder))
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    for split, count in (("train", 4), ("test", 2)):
        images, labels = getattr(dataset, split).read(np.arange(3 * count))
        expected = class_images(3, count, 32, len(split))
        np.testing.assert_array_equal(images, expected.reshape(-1, 32, 32, 3))
        np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], count))


def test_other_files_are_passed_over(folder):
    (folder / "train/notes.txt").write_text("x")
    (folder / "train/class_0/.hidden.png").write_text("x")
    (folder / "train/class_0/Thumbs.db").write_text("x")
    (folder / "train/.cache").mkdir()
    (folder / "train/.cache/a.png").write_text("x")
    shutil.copy(folder / "train/class_0/000.png", folder / "train/class_0/UPPER.PNG")
    assert len(load_dataset(settings(folder)).train) == 13


def test_val_stands_in_for_test(folder):
    (folder / "test").rename(folder / "val")
    assert len(load_dataset(settings(folder)).test) == 6
    (folder / "test/class_1").mkdir(parents=True)
    shutil.copy(folder / "val/class_1/000.png", folder / "test/class_1")
    test = load_dataset(settings(folder)).test
    assert len(test) == 1
    assert test.read(np.array([0]))[1].tolist() == [1]


def test_changed_folder_is_prepared_anew(folder):
    load_dataset(settings(folder))
    load_dataset(settings(folder))
    (first,) = prepared(folder)
    assert first.startswith("my_images-")

    (folder / "train/class_2/more.png").write_bytes(encode(np.zeros([32, 32, 3], np.uint8)))
    assert len(load_dataset(settings(folder)).train) == 13
    assert len(prepared(folder)) == 2

    file = folder / "train/class_0/000.png"
    stat = file.stat()
    file.write_bytes(encode(np.full([32, 32, 3], 9, np.uint8)).ljust(stat.st_size, b"\0"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    images, _ = load_dataset(settings(folder)).train.read(np.array([0]))
    assert (images == 9).all()
    assert len(prepared(folder)) == 3


def test_two_folders_of_one_name_do_not_clash(folder):
    other = write_folder(folder.parent / "b" / folder.name, classes=2, per_class=4, seed=5)
    config = settings(other, data_dir=folder.parent / "prepared")
    assert load_dataset(settings(folder)).num_classes == 3
    assert load_dataset(config).num_classes == 2
    assert len(prepared(folder)) == 2


@pytest.mark.parametrize("keep", [0, 500])
def test_damaged_file_is_named_and_nothing_is_left(folder, keep):
    path = folder / "train/class_1/002.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"^{path} cannot be decoded as an image: .*$"):
        load_dataset(settings(folder))
    assert not list((folder.parent / "prepared").glob("**/*.array_record*"))
    write_folder(folder.parent / "whole")
    shutil.copy(folder.parent / "whole/train/class_1/002.png", path)
    assert len(load_dataset(settings(folder)).train) == 12


def test_file_that_vanishes(folder):
    config = list_folder(folder)
    (folder / "train/class_0/001.png").unlink()
    with pytest.raises(UserError, match=r"class_0/001\.png cannot be read"):
        prepare(lambda: Folder(config=config, data_dir=folder.parent / "prepared"))


def test_class_that_train_lacks(folder):
    (folder / "test/class_0").rename(folder / "test/klass_0")
    with pytest.raises(UserError, match=r"a label outside the classes: .*test has 'klass_0'"):
        load_dataset(settings(folder))


@pytest.mark.parametrize("missing", ["", "train", "test", "train/*/*"])
def test_other_layouts_are_explained(folder, missing):
    for path in list(folder.glob(missing)) if missing else [folder]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="expected are train/CLASS/"):
        load_dataset(settings(folder))


def test_needs_a_path_and_a_size(folder):
    with pytest.raises(UserError, match=r"needs config.data.folder"):
        load_dataset(data_settings("folder", folder.parent, image_size=32))
    with pytest.raises(UserError, match=r"needs config.data.image_size"):
        load_dataset(settings(folder, image_size=0))
    with pytest.raises(UserError, match="image_size must be at least 0, not -1"):
        load_dataset(settings(folder, image_size=-1))
