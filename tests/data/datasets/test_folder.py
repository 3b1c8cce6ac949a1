import os
import shutil
import unicodedata
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.data.datasets.folder import Folder, list_folder
from amdjax.data.preparation import prepare
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
    (train / "class_3").mkdir()
    os.mkfifo(train / "class_2/pipe.png")
    assert len(list_folder(folder).files["train"]) == 12
    assert sorted(capfd.readouterr().err.splitlines()) == [
        f"note: {train}: left out 1 class folder without images: class_3",
        f"note: {train}: left out 1 file outside the class folders: loose.png",
        f"note: {train}: left out 1 file that cannot hold an image (a pipe, socket or device): "
        "class_2/pipe.png",
        f"note: {train}: left out 5 files without an image suffix: class_0/Thumbs.db, "
        "class_1/notes0.txt, class_1/notes1.txt and 2 more",
    ]


def test_a_class_has_the_images_at_any_depth(folder):
    deep = folder / "train/class_2/more/deep"
    deep.mkdir(parents=True)
    (deep / "b.png").write_bytes(encode(BLACK))
    linked = write_folder(folder.parent / "linked", classes=1, per_class=2) / "train/class_0"
    (folder / "train/class_2/link").symlink_to(linked)
    listed = list_folder(folder)
    assert "train/class_2/more/deep/b.png" in listed.files["train"]
    assert listed.labels["train"] == [0] * 4 + [1] * 4 + [2] * 7
    images, labels = read_all(load_dataset(settings(folder)).train)
    assert (images[labels == 2] == 0).all((1, 2, 3)).sum() == 1


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


def test_list_folder_does_not_follow_links_to_parents(folder, capfd):
    (folder / "train/class_0/loop").symlink_to(folder / "train")
    assert len(list_folder(folder).files["train"]) == 12
    assert "1 file linking to a folder above: class_0/loop" in capfd.readouterr().err


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


def test_folder_error_names_the_files_that_changed_after_listing(folder):
    config = list_folder(folder)
    (folder / "train/class_0/001.png").unlink()
    (folder / "test/class_1/000.png").unlink()
    os.mkfifo(folder / "test/class_1/000.png")
    with pytest.raises(UserError) as caught:
        prepare(lambda: Folder(config=config, data_dir=folder.parent / "prepared"))
    assert str(caught.value).splitlines() == [
        "2 images cannot be used; correct or remove such files:",
        f"  {folder}/train/class_0/001.png cannot be read: No such file or directory",
        f"  {folder}/test/class_1/000.png cannot be read: it is a pipe, socket or device",
    ]


def test_folder_error_names_the_first_twenty_damaged_files(folder):
    for index in range(18):
        (folder / f"train/class_1/x{index:02d}.png").write_bytes(b"x")
    for index in range(5):
        (folder / f"test/class_2/y{index}.png").write_bytes(b"")
    (folder / "train/class_0/link.png").symlink_to(folder / "nothing.png")
    with pytest.raises(UserError) as caught:
        load_dataset(settings(folder))
    first, *lines, last = str(caught.value).splitlines()
    assert first == "24 images cannot be used; correct or remove such files:"
    assert len(lines) == 20
    assert lines[0].endswith("train/class_0/link.png cannot be read: No such file or directory")
    assert "test/class_2/y0.png cannot be decoded" in lines[19]
    assert last == "  and 4 more"
    assert not list((folder.parent / "prepared").glob("**/*.array_record*"))


def test_list_folder_error_names_a_test_class_without_training_images(folder):
    (folder / "test/class_0").rename(folder / "test/klass_0")
    with pytest.raises(UserError, match=r"a label outside the classes: .*test has 'klass_0'"):
        load_dataset(settings(folder))


@pytest.mark.parametrize("missing", ["", "train", "test", "train/*/*"])
def test_list_folder_error_explains_the_layout(folder, missing):
    for path in list(folder.glob(missing)) if missing else [folder]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match="expected train/CLASS/"):
        load_dataset(settings(folder))


def test_folder_needs_a_path_and_an_image_size(folder):
    with pytest.raises(UserError, match=r"needs config.data.folder"):
        load_dataset(data_settings("folder", folder.parent, image_size=32))
    with pytest.raises(UserError, match=r"needs config.data.image_size"):
        load_dataset(settings(folder, image_size=0))


def move(folder: Path, **names: str) -> Path:
    for old, new in names.items():
        (folder / old).rename(folder / new)
    return folder


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Val"), ("TRAIN", "TEST"), ("train", "valid"), ("train", "Validation")],
)
def test_split_folders_have_several_names(folder, train, test):
    expected, held_out = list_folder(folder), settings(folder, validation=0.3)
    validation = load_dataset(held_out).validation
    move(folder, train=train, test=test)
    config = list_folder(folder)
    assert config.files["test"][0] == f"{test}/class_0/000.png"
    assert (config.content_digest, config.labels) == (expected.content_digest, expected.labels)
    dataset = load_dataset(held_out)
    assert len(dataset.test) == 6
    for ours, theirs in zip(read_all(dataset.validation), read_all(validation), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["test/1.png", "test/unknown/1.png"])
def test_val_is_the_test_split_beside_an_unlabelled_test(folder, name, capfd):
    move(folder, test="val")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(encode(BLACK))
    assert len(list_folder(folder).files["test"]) == 6
    err = capfd.readouterr().err
    assert f"{folder}/test has no labelled images: val is the test split\n" in err


def test_class_without_test_images_is_named(folder, capfd):
    shutil.rmtree(folder / "test/class_1")
    assert len(list_folder(folder).files["test"]) == 4
    assert f"warning: {folder}/test has no images of class_1\n" in capfd.readouterr().err


def test_val_beside_test_is_left_out_unless_it_is_the_validation_split(folder, capfd):
    shutil.copytree(folder / "test", folder / "val")
    without = list_folder(folder)
    assert "--config.data.validation_split=val uses it" in capfd.readouterr().err
    assert list(without.files) == ["train", "test"]
    dataset = load_dataset(settings(folder, validation_split="val"))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (12, 6, 6)
    assert dataset.selection is dataset.validation
    assert capfd.readouterr().err.count("left out") == 0
    (folder / "val/class_1").rename(folder / "val/klass_1")
    with pytest.raises(UserError, match=r"val has 'klass_1'"):
        list_folder(folder, "val")


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ("dev", r"unknown config\.data\.validation_split .* 'dev'"),
        ("train", "unknown"),
        ("test", "test cannot be the validation split"),
    ],
)
def test_validation_split_must_be_another_part(folder, validation, message):
    with pytest.raises(UserError, match=message):
        list_folder(folder, validation)


@pytest.mark.parametrize("depth", ["", "/a/b"])
def test_list_folder_error_on_a_single_class_names_its_sub_folders(folder, depth):
    for split in ("train", "test"):
        (folder / split).rename(folder / "moved")
        (folder / f"{split}{depth}").mkdir(parents=True)
        (folder / "moved").rename(folder / f"{split}{depth}/{NFD}")
    name, inner = ("a", "b") if depth else (NFC, "class_0, class_1, class_2")
    with pytest.raises(UserError) as caught:
        list_folder(folder)
    assert str(caught.value) == (
        f"{folder}/train has images only of the class {name!r}; at least 2 classes are needed; if "
        f"its sub-folders ({inner}) are the classes, move them from train/{name} to train"
    )
    shutil.rmtree(folder)
    for split in ("train", "test"):
        (folder / f"{split}/one").mkdir(parents=True)
        (folder / f"{split}/one/1.png").write_bytes(encode(BLACK))
    with pytest.raises(UserError, match=r"only of the class 'one'; at least 2 classes are needed$"):
        list_folder(folder)


def test_list_folder_reports_what_is_beside_the_splits(folder, capfd):
    shutil.copytree(folder / "test", folder / "train_extra")
    shutil.copytree(folder / "test", folder / "dev")
    shutil.copytree(folder / "test", folder / "val")
    for name in ("loose.png", "README", ".hidden"):
        (folder / name).write_bytes(encode(BLACK))
    assert list(list_folder(folder, "val").files) == ["train", "test", "validation"]
    assert capfd.readouterr().err.splitlines() == [
        f"note: {folder}: left out 2 files outside the class folders: README, loose.png",
        f"note: {folder}: left out 2 folders beside the splits: dev, train_extra",
    ]
    list_folder(folder, "dev")
    assert "left out 1 folder beside the splits: train_extra" in capfd.readouterr().err


@pytest.fixture
def classes(folder: Path) -> Path:
    """The class folders of 12 images, without a split."""
    return folder / "train"


def test_class_folders_without_a_split_are_split(classes, capfd):
    config = list_folder(classes)
    # The order by sha256 of "0 CLASS/FILE", computed with sha256sum.
    assert config.files["test"] == [
        "class_0/000.png",
        "class_1/003.png",
        "class_2/003.png",
    ]
    assert len(config.files["train"]) == 9
    assert config.labels["test"] == [0, 1, 2]
    line = (
        f"note: {classes} has no train and test: of 12 images in 3 classes (class_0, class_1, "
        "class_2), 9 are for training and 3 for testing, chosen in each class by a hash of their "
        "names\n"
    )
    assert capfd.readouterr().err == line
    moved = classes.rename(classes.parent / "moved")
    assert list_folder(moved).files == config.files
    assert list_folder(moved).content_digest == config.content_digest
    assert load_dataset(settings(moved)).class_names == ("class_0", "class_1", "class_2")


def test_the_split_of_class_folders_changes_little_with_an_image(classes):
    before = set(list_folder(classes).files["test"])
    (classes / "class_1/new.png").write_bytes(encode(BLACK))
    after = set(list_folder(classes).files["test"])
    assert {name for name in before ^ after if "class_1" not in name} == set()
    assert len(before - after) <= 1


def test_a_class_may_be_called_train(classes):
    move(classes, class_0="train")
    assert list_folder(classes).class_names == ["class_1", "class_2", "train"]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("train_set", "val2"),
        ("trains", "Valid_"),
    ],
)
def test_splits_of_other_names_are_not_classes(folder, train, test):
    move(folder, train=train, test=test)
    message = f"{train} and {test} would be classes, .* class_0, class_1, class_2; .* rename them"
    with pytest.raises(UserError, match=message):
        list_folder(folder)


@pytest.mark.parametrize("test", ["valley", "contest", "station"])
def test_classes_with_the_same_sub_folders_are_classes(folder, test):
    move(folder, train="trains", test=test)
    assert list_folder(folder).class_names == sorted(["trains", test])


def test_splits_in_every_class_are_not_one_class(folder):
    root = folder.parent / "inverted"
    for name in ("class_0", "class_1"):
        (root / name).mkdir(parents=True)
        (folder / "train" / name).rename(root / name / "Train")
        (folder / "test" / name).rename(root / name / "test")
    message = r"inverted: each class folder \(class_0, class_1\) has .*; move .* to train/CLASS and"
    with pytest.raises(UserError, match=message):
        list_folder(root)
    shutil.rmtree(root / "class_1/Train")
    assert list_folder(root).class_names == ["class_0", "class_1"]


def test_class_folders_error_on_a_single_class(classes):
    shutil.move(classes, classes.parent / "all/images")
    shutil.rmtree(classes.parent / "test")
    for root in (classes.parent / "all", classes.parent):
        with pytest.raises(
            UserError, match=r"has no folder train, and \w+ alone is not two classes; expected"
        ):
            list_folder(root)
    shutil.rmtree(classes.parent / "all/images/class_0")
    shutil.rmtree(classes.parent / "all/images/class_1")
    (classes.parent / "all/images/empty").mkdir()
    with pytest.raises(
        UserError, match="has only images of the class class_2; at least 2 classes are needed"
    ):
        list_folder(classes.parent / "all/images")


NFC, NFD = "caf\u00e9", "cafe\u0301"


def test_class_names_in_another_normal_form_are_one_class(folder):
    move(folder, **{"train/class_0": f"train/{NFC}", "train/class_1": f"train/{NFD}"})
    move(folder, **{"test/class_0": f"test/{NFD}", "test/class_1": f"test/{NFC}"})
    dataset = load_dataset(settings(folder))
    assert dataset.class_names == (NFC, "class_2")
    assert np.bincount(read_all(dataset.train)[1]).tolist() == [8, 4]


def test_a_copy_in_another_normal_form_is_the_same_data(folder):
    move(folder, **{"train/class_0": f"train/{NFC}", "test/class_0": f"test/{NFC}"})
    config = list_folder(folder)
    move(folder, **{f"train/{NFC}": f"train/{NFD}", f"test/{NFC}": f"test/{NFD}"})
    copy = list_folder(folder)
    assert (copy.content_digest, copy.class_names) == (config.content_digest, config.class_names)
    assert load_dataset(settings(folder)).class_names[0] == NFC


@pytest.mark.parametrize("layout", ["splits", "classes", "table"])
def test_the_order_of_images_does_not_depend_on_the_normal_form(tmp_path, layout):
    names = ["arbre", "\u00e9t\u00e9", "ofen", "\u00f6l", "ulm", "zebra"]
    listed = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form / "images"
        folders = ["train/a", "train/b", "test/a", "test/b"] if layout == "splits" else ["a", "b"]
        files = [unicodedata.normalize(form, f"{folder}/{name}.png") for folder in folders
                 for name in names]  # fmt: skip
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"x")
        if layout == "table":
            rows = "".join(f"{file},{file[0]}\n" for file in files)
            (root / "labels.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
        listed.append(list_folder(root))
    composed, decomposed = listed
    assert composed.content_digest == decomposed.content_digest
    for split, files in decomposed.files.items():
        assert [unicodedata.normalize("NFC", file) for file in files] == composed.files[split]
        assert composed.files[split] == sorted(composed.files[split])


def test_file_names_need_not_be_utf8(folder):
    name = os.fsdecode(b"train/class_0/\xff\xfe.png")
    (folder / name).write_bytes(encode(BLACK))
    source = load_dataset(settings(folder, memory_gib=0.0)).train
    assert len(source) == 13
    assert source.entries(np.arange(13))[4] == (name, 0)
    (folder / os.fsdecode(b"test/class_0/\xff.png")).write_bytes(b"x")
    with pytest.raises(UserError, match=r"class_0/.*\.png cannot be decoded"):
        load_dataset(settings(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"\xff", "is not UTF-8; rename it"),
        (b"a\nb", "line break"),
        (b"a ", "ends with a space"),
        (b"a\x1b[1m", r"class name 'a\\x1b\[1m' has a control character; rename it"),
    ],
)
def test_class_names_are_one_line_of_utf8(folder, name, message):
    move(folder, **{"train/class_0": f"train/{os.fsdecode(name)}"})
    with pytest.raises(UserError, match=message):
        list_folder(folder)


def test_the_names_of_prepared_folders_do_not_change(tmp_path):
    for index, name in enumerate(("train/b/1.png", "train/a a/2.JPG", "val/b/1.png")):
        path = tmp_path / "my images" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 5)
        os.utime(path, ns=(10**18, 10**18 + index))
    config = list_folder(tmp_path / "my images")
    # As of version 0.2.0: what was prepared before is found, and a run goes on with it.
    assert (config.name, config.content_digest) == ("my_images-b9559913", "95bd393447fbf597")


def test_the_content_tells_folders_of_equal_times_apart(folder):
    files = sorted(folder.glob("*/*/*.png"))

    def set_times(*times: int) -> str:
        for file, time in zip(files, times, strict=True):
            os.utime(file, ns=(time, time))
        return list_folder(folder).name

    def invert() -> None:
        for file in files:
            file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))

    one, other = (0,) * 18, (0,) * 17 + (1,)
    equal, different = set_times(*one), set_times(*other)
    invert()
    assert set_times(*one) != equal
    assert set_times(*other) == different  # sizes and times alone, as they tell versions apart
    invert()
    assert set_times(*one) == equal
    files[0].unlink()
    files[0].symlink_to("nothing")
    list_folder(folder)  # a file that cannot be read is reported when the folder is prepared


@pytest.fixture
def table(folder: Path) -> Path:
    """A flat folder of six images; `write_table` adds the table."""
    root = folder.parent / "flat"
    root.mkdir()
    for index, image in enumerate(class_images(2, 3, 32, 0).reshape(6, 32, 32, 3)):
        (root / f"{index}.png").write_bytes(encode(image))
    return root


def write_table(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "labels.csv").write_text(text, encoding=encoding)
    return root


def rows_of(labels: str) -> str:
    return "file,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))


def test_table_gives_labels_and_splits(table):
    (table / "deep").mkdir()
    (table / "5.png").rename(table / "deep/5.jpeg")  # the content decides
    rows = "label, file ,split,note\ndog,0.png,Train,\ncat,1.png,train,x\n"
    rows += "cat,./2.png,val,,,\ndog,3.png,test,\n\n"
    rows += '"a, b",4.png,train,\n"a, b",deep/5.jpeg,test,\n'
    dataset = load_dataset(settings(write_table(table, rows, "utf-8-sig")))
    assert dataset.class_names == ("a, b", "cat", "dog")
    expected = class_images(2, 3, 32, 0).reshape(6, 32, 32, 3)
    for source, files, labels in (
        (dataset.train, [0, 1, 4], [2, 1, 0]),
        (dataset.test, [3, 5], [2, 0]),
    ):
        images, read_labels = read_all(source)
        np.testing.assert_array_equal(images, expected[files])
        np.testing.assert_array_equal(read_labels, labels)
    with_val = load_dataset(settings(table, validation_split="val"))
    np.testing.assert_array_equal(read_all(with_val.validation)[1], [1])


def test_table_without_a_split_is_split(table, capfd):
    config = list_folder(write_table(table, rows_of("aaabbb")))
    assert {split: len(files) for split, files in config.files.items()} == {"train": 4, "test": 2}
    assert "of 6 images in 2 classes (a, b), 4 are for training" in capfd.readouterr().err
    list_folder(write_table(table, rows_of("aaab")))
    assert "2 image files that labels.csv does not list: 4.png, 5.png" in capfd.readouterr().err


def test_table_of_other_labels_is_other_data(table):
    data = settings(write_table(table, rows_of("aabb")))
    digests = {load_dataset(data).digest}
    write_table(table, rows_of("abab"))
    digests.add(load_dataset(data).digest)
    assert len(digests) == len(prepared(table)) == 2


def test_table_names_all_missing_files(table):
    rows = rows_of("aabb") + "x.png,a\ny.png,b\n"
    with pytest.raises(
        UserError, match=r"2 images cannot be used; .*:\n.*[xy]\.png.*\n.*[xy]\.png"
    ):
        load_dataset(settings(write_table(table, rows)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be file,label or file,label,split, not ''"),
        ("file;label\n0.png;a\n", "not 'file;label'"),
        ("file,label\n", "lists no images"),
        ("file,label\n0.png,a\n1.png,\n", "line 3: no label is given"),
        ("file,label\n0.png\n", "line 2: no label is given"),
        ("file,label,label\n0.png,a,b\n", "the first line has the column label twice"),
        ("file,label\n0.png,a\n./0.png,b\n", "line 3: the file './0.png' is listed twice"),
        ("file,label\n../0.png,a\n", r"line 2: the file '\.\./0\.png' must be below"),
        ("file,label\n/0.png,a\n", "line 2: the file '/0.png' must be relative to /"),
        ("file,label\n0.png,a\n1.png,b, c\n", "line 3: 3 values for 2 columns; put a value with"),
        ("file,label,split\n0.png,b, c,train\n", "line 2: 4 values for 3 columns; put a value"),
        ("file,label\n0\0.png,a\n", r"line 2: the file '0\\x00\.png' has a control character"),
        ("file,label\n0.png,a\0\n", r"line 2: the class name 'a\\x00' has a control character"),
        (
            "file,label,split\nx/y/0.png,x,train\nx/y/1.png,x,test\n",
            "split train has images only of the class 'x'; at least 2 classes are needed$",
        ),
        ("file,label,split\n0.png,a,fold1\n", "unknown split in .*line 2 'fold1'"),
        ("file,label,split\n0.png,a,test\n", "split train has no images"),
        ("file,label,split\n0.png,a,train\n", "split test has no images"),
        ("file,label,split\n0.png,a,train\n1.png,b,test\n", "split test has 'b', of which"),
        (rows_of("aaaa"), "has only images of the class a; at least 2"),
        (rows_of("abcd"), "has one image of each class"),
    ],
)
def test_table_error_names_line_and_value(table, text, message):
    with pytest.raises(UserError, match=message) as caught:
        list_folder(write_table(table, text))
    assert "\n" not in str(caught.value)


def test_table_error_names_another_encoding(table):
    with pytest.raises(UserError, match=r"labels\.csv cannot be read: .*save it as CSV in UTF-8"):
        list_folder(write_table(table, rows_of("\u00e9b"), "latin-1"))


def test_table_beside_class_folders_is_left_out(folder, capfd):
    expected = list_folder(folder).files
    assert list_folder(write_table(folder, rows_of("ab"))).files == expected
    assert "labels.csv is left out" in capfd.readouterr().err
