"""Tiny-ImageNet, from its official archive."""

import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from amdjax.data.archives import check_class_names, damaged, find_archive, unreadable
from amdjax.data.image_examples import ImageFile, checked_examples
from amdjax.data.preparation import image_info

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_ROOT = "tiny-imagenet-200/"
_ANNOTATIONS = "val/val_annotations.txt"


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
    """200 classes of 64x64 JPEG files: 100,000 training and 10,000 test images.

    "test" is the official validation split, as the official test split has no labels. Classes are
    numbered in the order of their sorted WordNet ids, as in an image folder; a class name is the
    id and the first word, such as "n01443537 goldfish".
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel()  # the names are read from the archive
        return image_info(self, "Tiny-ImageNet, labelled parts.", labels, (64, 64, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = _Archive(find_archive(self, dl_manager, _URL))
        self.info.features["label"].names = archive.class_names
        return {
            "train": self._generate_examples(archive, *archive.train_files()),
            "test": self._generate_examples(archive, *archive.test_files()),
        }

    def _generate_examples(
        self, archive: "_Archive", names: Sequence[str], labels: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        files = (
            ImageFile(name, label, partial(archive.read, name))
            for name, label in zip(names, labels, strict=True)
        )
        return checked_examples(files, f"{archive.path}: ")


class _Archive:
    """Reader of the zip file; any damage raises a `UserError` that names the file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            for file in self._zip.infolist():
                # Compares the two copies of the name: a damaged one would leave the file out.
                self._zip.open(file).close()
        except Exception as error:  # zipfile raises several types
            raise unreadable(path, error) from error
        wnids = sorted(self._lines("wnids.txt"))
        check_class_names(path, "wnids.txt", wnids, len(wnids))
        words = dict(line.partition("\t")[::2] for line in self._lines("words.txt"))
        self.class_names = [f"{wnid} {words.get(wnid, '').split(',')[0]}".strip() for wnid in wnids]
        self._labels = {wnid: label for label, wnid in enumerate(wnids)}

    def train_files(self) -> tuple[list[str], list[int]]:
        """Returns names and labels of train/WNID/images/*.JPEG."""
        names = [
            name
            for name in sorted(self._zip.namelist())
            if name.startswith(f"{_ROOT}train/") and name.endswith(".JPEG")
        ]
        wnids = [name.split("/")[2] for name in names]
        without = sorted(self._labels.keys() - set(wnids))
        if without or not names:
            wnid = without[0] if without else "WNID"
            raise damaged(self.path, f"it has no {_ROOT}train/{wnid}/images/*.JPEG")
        return names, [self._label(wnid, name) for wnid, name in zip(wnids, names, strict=True)]

    def test_files(self) -> tuple[list[str], list[int]]:
        """Returns names and labels of the files in val/val_annotations.txt."""
        rows = [line.split("\t") for line in self._lines(_ANNOTATIONS)]
        if not rows:
            raise damaged(self.path, f"{_ANNOTATIONS} lists no images")
        names = [f"{_ROOT}val/images/{row[0]}" for row in rows]
        return names, [self._label("".join(row[1:2]), _ANNOTATIONS) for row in rows]

    def _label(self, wnid: str, where: str) -> int:
        if wnid not in self._labels:
            raise damaged(self.path, f"{where}: label {wnid!r} is not in wnids.txt")
        return self._labels[wnid]

    def _lines(self, name: str) -> list[str]:
        content = self.read(_ROOT + name)
        try:
            return content.decode().splitlines()
        except UnicodeDecodeError as error:
            raise unreadable(self.path, error, name) from error

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        try:
            return self._zip.read(name)
        except Exception as error:  # zipfile raises many types
            raise unreadable(self.path, error, name) from error
