"""Anybody's own images, in a folder for each class."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from amdjax.data.datasets.builder_utils import ImageFile, checked_examples, image_info
from amdjax.data.image_io import one_line
from amdjax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_LAYOUT = "expected are train/CLASS/* and test/CLASS/* (or val/CLASS/*) with image files"


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderConfig(tfds.core.BuilderConfig):
    """A folder as it was when it was listed.

    Attributes:
      root: the folder.
      class_names: sorted names of the class folders in train.
      files: "train" and "test" -> sorted paths under `root`, with slashes.
    """

    root: Path
    class_names: Sequence[str]
    files: dict[str, list[str]]


class Folder(tfds.core.GeneratorBasedBuilder):
    """An image folder: train/CLASS/*, and test/CLASS/* or else val/CLASS/*.

    The prepared files are kept by a digest of the folder's listing: when a file is added,
    removed or changed, the folder is prepared anew beside them.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=self.builder_config.class_names)
        return image_info(self, "An image folder.", labels, (None, None, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        files = self.builder_config.files
        return {split: self._generate_examples(names) for split, names in files.items()}

    def _generate_examples(self, names: Sequence[str]) -> Any:
        config = self.builder_config
        numbers = {name: number for number, name in enumerate(config.class_names)}
        files = (
            ImageFile(name, numbers[name.split("/")[1]], partial(self._read, name))
            for name in names
        )
        return checked_examples(files, f"{config.root}/")

    def _read(self, name: str) -> bytes:
        path = self.builder_config.root / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {one_line(error)}") from error


def list_folder(root: Path) -> FolderConfig:
    """Lists an image folder.

    Files that are hidden or have no image's extension are passed over.

    Args:
      root: the folder that holds train, and test or val (test is taken if both are there).

    Returns:
      The configuration with which `Folder` prepares this state of this folder.

    Raises:
      UserError: if the folder has another layout, no images, or test classes without training
        images.
    """
    root = root.expanduser().absolute()
    test = "test" if (root / "test").is_dir() else "val"
    try:
        listing = {"train": _list_split(root, "train"), "test": _list_split(root, test)}
    except OSError as error:
        raise UserError(f"{root} cannot be listed: {one_line(error)}; {_LAYOUT}") from error
    files = {split: [name for name, _ in entries] for split, entries in listing.items()}
    class_names, test_names = ({name.split("/")[1] for name in files[split]} for split in files)
    if test_names - class_names:
        unknown = ", ".join(repr(name) for name in sorted(test_names - class_names))
        raise UserError(
            f"a label outside the classes: {root / test} has {unknown}, "
            f"of which {root / 'train'} has no images"
        )
    digest = hashlib.sha256(repr(listing).encode()).hexdigest()
    return FolderConfig(
        name=f"{re.sub(r'[^A-Za-z0-9_]+', '_', root.name)}-{digest[:8]}",
        root=root,
        class_names=sorted(class_names),
        files=files,
    )


def _list_split(root: Path, split: str) -> list[tuple[str, tuple[int, int]]]:
    """Returns the sorted (path under root, (size, time of change)) of a split's images."""
    entries = []
    for folder in os.scandir(root / split):  # far faster than pathlib for a million files
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        for file in os.scandir(folder):
            if file.name.startswith(".") or not file.name.lower().endswith(SUFFIXES):
                continue
            stat = file.stat()
            entries.append((f"{split}/{folder.name}/{file.name}", (stat.st_size, stat.st_mtime_ns)))
    if not entries:
        raise UserError(f"{root / split} has no images; {_LAYOUT}")
    return sorted(entries)
