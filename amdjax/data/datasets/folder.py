"""Image-folder data set: the user's images, one folder per class."""

import collections
import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from amdjax.data.datasets.builder_utils import ImageFile, checked_examples, image_info
from amdjax.data.fingerprint import digest_of
from amdjax.data.image_io import IMAGE_SUFFIXES, one_line
from amdjax.errors import UserError

_LAYOUT = "expected are train/CLASS/* and test/CLASS/* (or val/CLASS/*) with image files"
_NUM_NAMES = 3  # of the files that are left out, for the message


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderConfig(tfds.core.BuilderConfig):
    """The listing of an image folder.

    Attributes:
      root: the folder.
      class_names: sorted names of the class folders in train.
      files: "train" and "test" -> sorted paths relative to `root`, with slashes.
      content_digest: of names and sizes of the files, wherever the folder lies.
    """

    root: Path
    class_names: Sequence[str]
    files: dict[str, list[str]]
    content_digest: str


class Folder(tfds.core.GeneratorBasedBuilder):
    """An image folder: train/CLASS/*, and test/CLASS/* or else val/CLASS/*.

    The prepared files are named by a digest of the listing: after an image is added, removed or
    changed, the folder is prepared again, next to the earlier files.
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
    """Lists an image folder, and reports on stderr the files that are left out.

    Left out are files without an image suffix and files that are not directly in a class folder.
    Hidden files and folders are ignored without a report.

    Args:
      root: the folder with train, and test or val (test takes precedence).

    Returns:
      The configuration with which `Folder` prepares the listed files.

    Raises:
      UserError: if the folder has another layout, no images, or test classes without training
        images.
    """
    root = root.absolute()
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
        content_digest=digest_of(
            (f"{split}/{name.partition('/')[2]}", size)
            for split, entries in listing.items()
            for name, (size, _) in entries
        ),
    )


def _list_split(root: Path, split: str) -> list[tuple[str, tuple[int, int]]]:
    """Returns the sorted (path relative to root, (size, modification time)) of the images."""
    entries = []
    left_out: dict[str, list[str]] = collections.defaultdict(list)  # reason -> paths
    for folder in _visible(root / split):
        if not folder.is_dir():
            left_out["outside the class folders"].append(folder.path)
            continue
        for file in _visible(folder):
            if file.is_dir():
                left_out["in nested folders"] += _walk(file)
            elif not file.name.lower().endswith(IMAGE_SUFFIXES):
                left_out["without an image suffix"].append(file.path)
            else:
                stat = file.stat()
                name = f"{split}/{folder.name}/{file.name}"
                entries.append((name, (stat.st_size, stat.st_mtime_ns)))
    for reason, paths in left_out.items():
        names = [os.path.relpath(path, root / split) for path in sorted(paths)[:_NUM_NAMES]]
        names += ["..."] if len(paths) > _NUM_NAMES else []
        count = f"{len(paths)} file{'s' if len(paths) > 1 else ''}"
        print(f"{root / split}: left out {count} {reason}: {', '.join(names)}", file=sys.stderr)
    if not entries:
        raise UserError(f"{root / split} has no images; {_LAYOUT}")
    return sorted(entries)


def _visible(folder: Path | os.DirEntry[str]) -> Iterator[os.DirEntry[str]]:
    """Yields the entries of a folder that are not hidden."""
    # os.scandir is far faster than pathlib for a million files.
    return (
        entry
        for entry in os.scandir(str(folder) if isinstance(folder, Path) else folder.path)
        if not entry.name.startswith(".")
    )


def _walk(folder: os.DirEntry) -> Iterator[str]:
    """Yields the paths of all files below a folder that are not hidden."""
    for entry in _visible(folder):
        if entry.is_dir(follow_symlinks=False):  # a link may lead back up
            yield from _walk(entry)
        else:
            yield entry.path
