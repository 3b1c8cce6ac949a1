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
from tests.data.archives import read_all
from tests.make_data import class_images, data_settings, encode, write_folder

BLACK = np.zeros([32, 32, 3], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder with 12 training and 6 test images of three classes."""
    return write_folder(tmp_path / "my images", classes=3, per_class=4)


def settings(folder: Path, **changes) -> ml_collections.ConfigDict:
    changes = {"folder": str(folder), "image_size": 32, **changes}
    data_dir = changes.pop("data_dir", folder.parent / "prepared")
    return data_settings("folder", data_dir, **changes)


def prepared(folder: Path) -> set[str]:
    return {path.name for path in (folder.parent / "prepared" / "folder").glob("*")}


def test_folder_has_images_and_labels_of_the_files(folder):
    dataset = load_dataset(settings(folder))
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    for source, split, count in ((dataset.train, "train", 4), (dataset.test, "test", 2)):
        images, labels = read_all(source)
        expected = class_images(3, count, 32, len(split))
        np.testing.assert_array_equal(images, expected.reshape(-1, 32, 32, 3))
        np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], count))


def test_list_folder_reports_the_files_that_are_left_out(folder, capfd):
    train = folder / "train"
    (train / "loose.png").write_bytes(encode(BLACK))
    (train / "class_0/Thumbs.db").write_text("x")
    for index in range(4):
        (train / f"class_1/notes{index}.txt").write_text("x")
    (train / "class_2/more/deep").mkdir(parents=True)
    (train / "class_2/more/a.png").write_bytes(encode(BLACK))
    (train / "class_2/more/deep/b.png").write_bytes(encode(BLACK))
    assert len(list_folder(folder).files["train"]) == 12
    assert sorted(capfd.readouterr().err.splitlines()) == [
        f"{train}: left out 1 file outside the class folders: loose.png",
        f"{train}: left out 2 files in nested folders: class_2/more/a.png, class_2/more/deep/b.png",
        f"{train}: left out 5 files without an image suffix: class_0/Thumbs.db, "
        "class_1/notes0.txt, class_1/notes1.txt, ...",
    ]


def test_load_dataset_reports_left_out_files_once(folder, capfd):
    (folder / "train/notes.txt").write_text("x")
    load_dataset(settings(folder))
    assert capfd.readouterr().err.count("left out") == 1


def test_list_folder_ignores_hidden_files_silently(folder, capfd):
    (folder / "train/class_0/.hidden.png").write_text("x")
    (folder / "train/.cache").mkdir()
    (folder / "train/.cache/a.png").write_text("x")
    assert len(list_folder(folder).files["train"]) == 12
    assert capfd.readouterr().err == ""


def test_list_folder_follows_links_to_parents_only_once(folder):
    (folder / "train/class_0/loop").symlink_to(folder / "train")
    assert len(list_folder(folder).files["train"]) == 12


@pytest.mark.parametrize(
    ("suffix", "file_format"),
    [(".PNG", "PNG"), (".jfif", "JPEG"), (".avif", "AVIF"), (".ppm", "PPM"), (".tga", "TGA")],
)
def test_folder_reads_every_suffix_of_pillow(folder, suffix, file_format):
    shutil.rmtree(folder / "train/class_2")
    (folder / "train/class_2").mkdir()
    (folder / f"train/class_2/image{suffix}").write_bytes(encode(BLACK, file_format))
    images, labels = read_all(load_dataset(settings(folder)).train)
    np.testing.assert_array_equal(images[labels == 2], BLACK[None])


def test_val_is_used_without_test(folder):
    (folder / "test").rename(folder / "val")
    assert len(load_dataset(settings(folder)).test) == 6
    (folder / "test/class_1").mkdir(parents=True)
    shutil.copy(folder / "val/class_1/000.png", folder / "test/class_1")
    test = load_dataset(settings(folder)).test
    assert len(test) == 1
    assert test.read(np.array([0]))[1].tolist() == [1]


def test_folder_is_prepared_again_after_a_change(folder):
    load_dataset(settings(folder))
    load_dataset(settings(folder))
    (first,) = prepared(folder)
    assert first.startswith("my_images-")

    (folder / "train/class_2/more.png").write_bytes(encode(BLACK))
    assert len(load_dataset(settings(folder)).train) == 13
    assert len(prepared(folder)) == 2

    file = folder / "train/class_0/000.png"
    stat = file.stat()
    file.write_bytes(encode(np.full([32, 32, 3], 9, np.uint8)).ljust(stat.st_size, b"\0"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    images, _ = load_dataset(settings(folder)).train.read(np.array([0]))
    assert (images == 9).all()
    assert len(prepared(folder)) == 3


def test_folders_of_the_same_name_are_prepared_separately(folder):
    other = write_folder(folder.parent / "b" / folder.name, classes=2, per_class=4, seed=5)
    data = settings(other, data_dir=folder.parent / "prepared")
    assert load_dataset(settings(folder)).num_classes == 3
    assert load_dataset(data).num_classes == 2
    assert len(prepared(folder)) == 2


@pytest.mark.parametrize("end", [0, 500])
def test_folder_error_names_a_damaged_file_and_leaves_nothing_prepared(folder, end):
    path = folder / "train/class_1/002.png"
    content = path.read_bytes()
    path.write_bytes(content[:end])
    with pytest.raises(UserError, match=f"^{path} cannot be decoded as an image: .*$"):
        load_dataset(settings(folder))
    assert not list((folder.parent / "prepared").glob("**/*.array_record*"))
    path.write_bytes(content)
    assert len(load_dataset(settings(folder)).train) == 12


def test_folder_error_names_a_file_that_was_deleted_after_listing(folder):
    config = list_folder(folder)
    (folder / "train/class_0/001.png").unlink()
    with pytest.raises(UserError, match=r"class_0/001\.png cannot be read"):
        prepare(lambda: Folder(config=config, data_dir=folder.parent / "prepared"))


def test_list_folder_error_names_a_test_class_without_training_images(folder):
    (folder / "test/class_0").rename(folder / "test/klass_0")
    with pytest.raises(UserError, match=r"a label outside the classes: .*test has 'klass_0'"):
        load_dataset(settings(folder))


@pytest.mark.parametrize("missing", ["", "train", "test", "train/*/*"])
def test_list_folder_error_explains_the_layout(folder, missing):
    for path in list(folder.glob(missing)) if missing else [folder]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="expected are train/CLASS/"):
        load_dataset(settings(folder))


def test_folder_needs_a_path_and_an_image_size(folder):
    with pytest.raises(UserError, match=r"needs config.data.folder"):
        load_dataset(data_settings("folder", folder.parent, image_size=32))
    with pytest.raises(UserError, match=r"needs config.data.image_size"):
        load_dataset(settings(folder, image_size=0))
