"""Image-folder data set: the user's images, in class folders or with a table of labels."""

import collections
import contextlib
import csv
import dataclasses
import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from amdjax.data.fingerprint import digest_files, normal_form
from amdjax.data.image_examples import ImageFile, checked_examples
from amdjax.data.image_files import (
    BAD_FILES_ADVICE,
    path_order,
    read_file,
    report_files,
    report_left_out,
    visible_entries,
    walk_files,
    walk_images,
)
from amdjax.data.image_io import IMAGE_SUFFIXES
from amdjax.data.preparation import image_info
from amdjax.data.splits import hold_out
from amdjax.errors import UserError, first_names, note, one_line, unknown_name, warn

_LAYOUT = (
    "expected train/CLASS/* and test/CLASS/* (or val/CLASS/*) with image files, CLASS/* "
    "without these two folders, or labels.csv"
)
_TRAIN = "train"
_TESTS = ("test", "val", "valid", "validation")  # the first with labelled images is the test split
_TABLE = "labels.csv"
_TEST_FRACTION = 0.2  # of each class, where the folder has no split
# Folders with these names that have the same sub-folders are splits rather than classes.
_LIKE_TRAIN = re.compile(r"(?<![a-z])train")
_LIKE_TEST = re.compile(r"(?<![a-z])(test|val(id|set|[^a-z]|$))")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUM_SAMPLES = 16  # at most, of the files whose content is compared where their times say nothing

_Splits = dict[str, list["_Image"]]  # "train", "test" and perhaps "validation" -> sorted images


class _Image(NamedTuple):
    """A listed image file.

    Attributes:
      path: relative to the root, with slashes.
      class_name: in Unicode's normal form C.
      size: in bytes; 0 if the file cannot be found, which is reported when it is read.
      time: of the last change, in ns.
      key: what identifies the image in its split, wherever the folder lies: class and file name.
    """

    path: str
    class_name: str
    size: int
    time: int
    key: str


@dataclasses.dataclass(eq=False, kw_only=True, repr=False)
class FolderConfig(tfds.core.BuilderConfig):
    """The listing of an image folder.

    Attributes:
      root: the folder.
      class_names: sorted names of the classes of the training images.
      files: "train", "test" and perhaps "validation" -> paths relative to `root`, with slashes, in
        the order of `_in_order`.
      labels: split -> index of the class of each file.
      content_digest: of names and sizes of the files, wherever the folder lies.
    """

    root: Path
    class_names: Sequence[str]
    files: dict[str, list[str]]
    labels: dict[str, list[int]]
    content_digest: str

    def __repr__(self) -> str:
        """Returns the name alone: tfds logs its configurations."""
        return f"FolderConfig({self.name!r})"


class Folder(tfds.core.GeneratorBasedBuilder):
    """An image folder, as `list_folder` lists it.

    The prepared files are named by a digest of the listing, see `_digest`: after an image is added,
    removed or changed, the folder is prepared again, next to the earlier files.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=self.builder_config.class_names)
        return image_info(self, "An image folder.", labels, (None, None, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = list(self.builder_config.files)
        return {
            split: self._generate_examples(split, splits[position + 1 :])
            for position, split in enumerate(splits)
        }

    def _generate_examples(self, split: str, later: Sequence[str]) -> Any:
        return checked_examples(
            self._image_files(split),
            f"{self.builder_config.root}/",
            BAD_FILES_ADVICE,
            (file for other in later for file in self._image_files(other)),
        )

    def _image_files(self, split: str) -> Iterator[ImageFile]:
        config = self.builder_config
        for name, label in zip(config.files[split], config.labels[split], strict=True):
            yield ImageFile(name, label, partial(read_file, config.root / name))


def list_folder(root: Path, validation: str = "") -> FolderConfig:
    """Lists an image folder, and reports on stderr what is left out.

    There are three layouts: train/CLASS/* with test/CLASS/* (or val, valid, validation, in upper
    or lower case); CLASS/* alone, of which a fifth becomes the test split; and labels.csv with the
    columns file, label and perhaps split. A class has the images at any depth of its folder. Class
    names that differ only in their Unicode normal form are one class.

    Left out are files without an image suffix, files outside the class folders, folders beside the
    splits, and pipes, sockets and devices. Hidden files and folders are ignored without a report.

    Args:
      root: the folder.
      validation: the folder, or the value of the column split, whose images are the split
        "validation"; "": none.

    Returns:
      The configuration with which `Folder` prepares the listed files.

    Raises:
      UserError: if the folder has another layout, no images, a single class, or test classes
        without training images; or if what would be its classes looks like its splits.
    """
    root = root.absolute()
    try:
        splits = _list_splits(root, validation)
    except OSError as error:
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; {_LAYOUT}") from error
        raise UserError(f"{root} cannot be listed: {one_line(error)}") from error
    class_names = sorted({image.class_name for image in splits["train"]})
    numbers = {name: number for number, name in enumerate(class_names)}
    return FolderConfig(
        name=f"{re.sub(r'[^A-Za-z0-9_]+', '_', root.name)}-{_digest(root, splits)[:8]}",
        root=root,
        class_names=class_names,
        files={split: [image.path for image in images] for split, images in splits.items()},
        labels={
            split: [numbers[image.class_name] for image in images]
            for split, images in splits.items()
        },
        content_digest=digest_files(
            (f"{split}/{image.key}", image.size)
            for split, images in splits.items()
            for image in images
        ),
    )


def _digest(root: Path, splits: _Splits) -> str:
    """Returns a digest of paths, sizes and times, and of the classes that are no part of a path.

    Where all times are equal, as in some archives and containers, they do not tell two versions of
    a folder apart; then the content of some evenly spaced files is part of the digest.
    """
    content = {
        split: [
            (image.path, (image.size, image.time))
            if image.path.split("/")[1:2] == [image.class_name]
            else (image.path, (image.size, image.time), image.class_name)
            for image in images
        ]
        for split, images in splits.items()
    }
    digest = hashlib.sha256(repr(content).encode())
    images = [image for split in splits.values() for image in split]
    if len({image.time for image in images}) == 1:
        for image in images[:: math.ceil(len(images) / _NUM_SAMPLES)]:
            path = root / image.path
            with contextlib.suppress(OSError):  # which is reported when the file is prepared
                digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _list_splits(root: Path, validation: str) -> _Splits:
    entries = visible_entries(str(root))
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    train = _match(_TRAIN, folders)
    has_test = any(_match(name, folders) for name in _TESTS)
    has_classes = train is not None and any(
        entry.is_dir() for entry in visible_entries(str(root / train))
    )
    if (root / _TABLE).is_file():
        if not has_classes:
            return _list_table(root, validation)
        note(f"{root / _TABLE} is left out: {root}/{train} has class folders")
    if has_classes or has_test or len(folders) < 2:
        if train is None:
            only = f", and {folders[0]} alone is not two classes" if len(folders) == 1 else ""
            raise UserError(f"{root} has no folder {_TRAIN}{only}; {_LAYOUT}")
        used = {_match(name, folders) for name in (_TRAIN, *_TESTS, validation)}
        others = [entry.path for entry in entries if entry.is_dir() and entry.name not in used]
        files = [entry.path for entry in entries if not entry.is_dir() and entry.name != _TABLE]
        report_left_out(str(root), {"outside the class folders": files})
        report_files(str(root), "folder", "beside the splits", others)
        return _assign_parts(
            f"{root}/", folders, lambda part: _list_classes(root, f"{part}/"), validation
        )
    _check_not_splits(root, folders)
    return _hold_out_test(root, _list_classes(root, ""), validation)


def _check_not_splits(root: Path, folders: Sequence[str]) -> None:
    """Makes sure that class folders are not the splits, or have splits in each of them.

    Raises:
      UserError: if two of them are called like splits and have at least two sub-folders in common,
        or if all of them have the sub-folders train and test.
    """

    def sub_folders(name: str) -> list[str]:
        return [entry.name for entry in visible_entries(str(root / name)) if entry.is_dir()]

    trains = [name for name in folders if _LIKE_TRAIN.search(name.lower())]
    tests = [name for name in folders if _LIKE_TEST.search(name.lower()) and name not in trains]
    for train, test in itertools.product(trains, tests):
        common = {*sub_folders(train)} & {*sub_folders(test)}
        if len(common) > 1:
            raise UserError(
                f"{root}: {train} and {test} would be classes, but both have the sub-folders "
                f"{first_names(sorted(common))}; if they are the splits, rename them to train and "
                f"test; if they are classes, list the images in {_TABLE}"
            )

    def has_splits(name: str) -> bool:
        names = sub_folders(name)
        return bool(_match(_TRAIN, names) and any(_match(test, names) for test in _TESTS))

    if all(map(has_splits, folders)):
        raise UserError(
            f"{root}: each class folder ({first_names(folders)}) has sub-folders of splits; move "
            f"the images to train/CLASS and test/CLASS, or list them in {_TABLE}"
        )


def _match(name: str, names: Sequence[str]) -> str | None:
    """Returns a name, or else the first that differs from it only in upper and lower case."""
    if name in names:
        return name
    return next((other for other in names if other.lower() == name.lower()), None)


def _assign_parts(
    place: str, names: Sequence[str], read: Callable[[str], list[_Image]], validation: str
) -> _Splits:
    """Decides which parts of a data set are its splits, and reports on stderr the others.

    Args:
      place: precedes the name of a part in messages.
      names: of the parts: folders, or values of the column split.
      read: returns the images of a part, in order.
      validation: the part that is the split "validation"; "": none.

    Raises:
      UserError: if a split has no images, or classes without training images, or there is a single
        class.
    """
    train = _match(_TRAIN, names) or _TRAIN
    tests = [part for part in (_match(name, names) for name in _TESTS) if part]
    chosen = _match(validation, names) if validation else None
    if validation and chosen in (None, train):
        raise unknown_name(f"config.data.validation_split for {place}", validation, tests)
    splits: _Splits = {"train": _with_images(place, train, read(train))}
    classes = {image.class_name for image in splits["train"]}
    candidates = [part for part in tests if part != chosen]
    rejected: list[str] = []
    for part in candidates:
        images = read(part)
        # Without a known class, as in test/unknown/*, a part is unlabelled if there is another.
        is_labelled = not classes.isdisjoint(image.class_name for image in images)
        if images and (is_labelled or part == candidates[-1]):
            test, splits["test"] = part, images
            break
        rejected.append(part)
    if "test" not in splits:
        if chosen:
            raise UserError(
                f"{place}{chosen} cannot be the validation split: there are no other images for "
                "the test; leave config.data.validation_split empty, or hold out a fraction of the "
                "training images with config.data.validation"
            )
        raise UserError(f"{place}{(tests or _TESTS)[0]} has no images; {_LAYOUT}")
    for part in rejected:
        note(f"{place}{part} has no labelled images: {test} is the test split")
    if chosen:
        splits["validation"] = _with_images(place, chosen, read(chosen))
    for part in tests:
        if part not in (test, chosen, *rejected):
            note(
                f"{place}{part} is left out: {test} is the test split"
                + ("" if chosen else f" (--config.data.validation_split={part} uses it)")
            )
    for split, part in (("test", test), ("validation", chosen)):
        unknown = sorted({image.class_name for image in splits.get(split, ())} - classes)
        if unknown:
            raise UserError(
                f"a label outside the classes: {place}{part} has {', '.join(map(repr, unknown))}, "
                f"of which {place}{train} has no images"
            )
        absent = classes - {image.class_name for image in splits.get(split, ())}
        if split in splits and absent:
            warn(f"{place}{part} has no images of {first_names(sorted(absent))}")
    if len(classes) < 2:
        (name,) = classes
        raise UserError(
            f"{place}{train} has images only of the class {name!r}; at least 2 classes are needed"
            + _deeper_classes(train, name, splits["train"])
        )
    return splits


def _deeper_classes(train: str, class_name: str, images: Sequence[_Image]) -> str:
    """Returns a hint for an error: the sub-folders of the only class folder, if it has some."""
    paths = (normal_form(image.path).split("/") for image in images)
    names = {parts[2] for parts in paths if len(parts) > 3 and parts[:2] == [train, class_name]}
    if not names:
        return ""
    return (
        f"; if its sub-folders ({first_names(sorted(names))}) are the classes, move them from "
        f"{train}/{class_name} to {train}"
    )


def _with_images(place: str, part: str, images: list[_Image]) -> list[_Image]:
    if not images:
        raise UserError(f"{place}{part} has no images; {_LAYOUT}")
    return images


def _hold_out_test(root: Path, images: list[_Image], validation: str) -> _Splits:
    """Splits images into "train" and "test", with a note on it."""
    if validation:
        raise UserError(
            f"config.data.validation_split={validation!r}: {root} has no such part; hold out a "
            "fraction of the training images with config.data.validation"
        )
    names = [image.class_name for image in images]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise UserError(
            f"{root} has only images of the class {first_names(classes)}; at least 2 classes are "
            f"needed; {_LAYOUT}"
        )
    held_out = hold_out(names, (image.key for image in images), _TEST_FRACTION, seed=0)
    splits: _Splits = {"train": [], "test": []}
    for image, held in zip(images, held_out, strict=True):
        splits["test" if held else "train"].append(image)
    if not splits["test"]:
        raise UserError(f"{root} has one image of each class; at least 2 are needed")
    note(
        f"{root} has no train and test: of {len(images):,} images in {len(classes)} classes "
        f"({first_names(classes)}), {len(splits['train']):,} are for training and "
        f"{len(splits['test']):,} for testing, chosen in each class by a hash of their names"
    )
    return splits


def _list_classes(root: Path, prefix: str) -> list[_Image]:
    """Returns the images of the class folders of root/prefix, in order."""
    base = str(root / prefix)
    images, empty = [], []
    left_out: dict[str, list[str]] = collections.defaultdict(list)  # reason -> paths
    for folder in visible_entries(base):
        if not folder.is_dir():
            left_out["outside the class folders"].append(folder.path)
            continue
        class_name, count = _class_name(folder.name, folder.path), len(images)
        for file in walk_images(folder.path, (os.path.realpath(base),), left_out):
            path = file.path.removeprefix(str(root)).lstrip("/")
            size, time = _stat(file)
            key = normal_form(path.removeprefix(prefix))
            images.append(_Image(path, class_name, size, time, key))
        if len(images) == count:
            empty.append(folder.path)
    report_left_out(base, left_out)
    report_files(base, "class folder", "without images", empty)
    return _in_order(images)


def _in_order(images: Iterable[_Image]) -> list[_Image]:
    return sorted(images, key=lambda image: path_order(image.path))


def _list_table(root: Path, validation: str) -> _Splits:
    """Lists the images of root/labels.csv."""
    table = root / _TABLE
    images: dict[str, tuple[_Image, str]] = {}  # path -> image and the value of its column split
    for line, row in _read_table(table):
        place = f"{table}, line {line}"
        path = str(PurePosixPath(row["file"]))
        if _CONTROL_CHARACTER.search(path):
            raise UserError(f"{place}: the file {row['file']!r} has a control character; rename it")
        if path.startswith("/"):
            raise UserError(f"{place}: the file {row['file']!r} must be relative to {root}")
        if ".." in path.split("/"):
            raise UserError(f"{place}: the file {row['file']!r} must be below {root}")
        if path in images:
            raise UserError(f"{place}: the file {row['file']!r} is listed twice")
        part = row.get("split", "").lower()
        if "split" in row and part not in (_TRAIN, *_TESTS):
            raise unknown_name(f"split in {place}", row["split"], (_TRAIN, *_TESTS))
        class_name = _class_name(row["label"], place)
        size, time = _stat(root / path)
        key = normal_form(f"{class_name}/{path}")
        images[path] = _Image(path, class_name, size, time, key), part
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    others = (
        file.path
        for file in walk_files(str(root), (), left_out)
        if file.name.lower().endswith(IMAGE_SUFFIXES)
        and file.path.removeprefix(str(root)).lstrip("/") not in images
    )
    report_files(str(root), "image file", f"that {_TABLE} does not list", list(others))
    parts = sorted({part for _, part in images.values()})
    if parts == [""]:
        return _hold_out_test(root, _in_order(image for image, _ in images.values()), validation)

    def read(part: str) -> list[_Image]:
        return _in_order(image for image, own in images.values() if own == part)

    return _assign_parts(f"{table}, split ", parts, read, validation)


def _read_table(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields number and values of the lines of a table, of the columns file, label and split.

    Raises:
      UserError: if it is not CSV in UTF-8, lacks a column or a value, or has too many values.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [(column or "").strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            if not {"file", "label"} <= set(columns):
                raise UserError(
                    f"{table}: the first line must be file,label or file,label,split, "
                    f"not {','.join(columns)!r}"
                )
            known = [column for column in ("file", "label", "split") if column in columns]
            for column in known:
                if columns.count(column) > 1:
                    raise UserError(f"{table}: the first line has the column {column} twice")
            is_empty = True
            for row in reader:
                is_empty = False
                surplus = row.pop(None, [])  # the key of csv for values without a column
                if any(value.strip() for value in surplus):
                    raise UserError(
                        f"{table}, line {reader.line_num}: {len(columns) + len(surplus)} values "
                        f"for {len(columns)} columns; put a value with a comma in double quotes"
                    )
                values = {column: (row[column] or "").strip() for column in known}
                for column, value in values.items():
                    if not value:
                        raise UserError(f"{table}, line {reader.line_num}: no {column} is given")
                yield reader.line_num, values
            if is_empty:
                raise UserError(f"{table} lists no images")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{table} cannot be read: {one_line(error)}; save it as CSV in UTF-8"
        ) from error


def _class_name(text: str, place: str) -> str:
    """Returns a class name in normal form C.

    Raises:
      UserError: if it cannot be written as one line of UTF-8 without control characters.
    """
    name = normal_form(text)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: the class name {name!r} is not UTF-8; rename it") from error
    if name != name.strip() or len(name.splitlines()) != 1:
        raise UserError(
            f"{place}: the class name {name!r} begins or ends with a space, or has a line break; "
            "rename it"
        )
    if _CONTROL_CHARACTER.search(name):
        raise UserError(f"{place}: the class name {name!r} has a control character; rename it")
    return name


def _stat(file: os.DirEntry[str] | Path) -> tuple[int, int]:
    """Returns size in bytes and time of change in ns; zeros for a file that cannot be found."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
