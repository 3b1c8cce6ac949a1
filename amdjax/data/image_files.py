"""Image files in the folders of users: which there are, in which order, and what is left out."""

import collections
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from amdjax.data.fingerprint import normal_form
from amdjax.data.image_examples import ImageFile, checked_examples
from amdjax.data.image_io import IMAGE_SUFFIXES
from amdjax.errors import UserError, first_names, note
from amdjax.files import is_special

BAD_FILES_ADVICE = "correct or remove such files"  # damaged, of wrong values, or too large


def visible_entries(folder: str) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder that are not hidden."""
    # os.scandir is far faster than pathlib for a million files.
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def walk_images(
    folder: str, parents: tuple[str, ...], left_out: dict[str, list[str]]
) -> Iterator[os.DirEntry[str]]:
    """Yields the image files at any depth of a folder; links are followed, but not upwards.

    Links to files that do not exist are among them. Hidden files and folders are not.

    Args:
      folder: to walk over.
      parents: real paths of the folders above it.
      left_out: reason -> paths, to which the other files and links to parents are added.
    """
    for file in walk_files(folder, parents, left_out):
        if not file.name.lower().endswith(IMAGE_SUFFIXES):
            left_out["without an image suffix"].append(file.path)
        elif not file.is_file() and is_special(Path(file.path)):
            left_out["that cannot hold an image (a pipe, socket or device)"].append(file.path)
        else:
            yield file


def walk_files(
    folder: str, parents: tuple[str, ...], left_out: dict[str, list[str]]
) -> Iterator[os.DirEntry[str]]:
    """Yields the files at any depth that are not hidden; links are followed, but not upwards.

    Args:
      folder: to walk over.
      parents: real paths of the folders above it.
      left_out: reason -> paths, to which links to parents are added.
    """
    parents = (*parents, os.path.realpath(folder))
    for entry in visible_entries(folder):
        if not entry.is_dir():
            yield entry
        elif entry.is_symlink() and _is_above(os.path.realpath(entry.path), parents):
            left_out["linking to a folder above"].append(entry.path)
        else:
            yield from walk_files(entry.path, parents, left_out)


def _is_above(target: str, folders: tuple[str, ...]) -> bool:
    """Returns whether a real path is that of one of some folders, or of a folder above one."""
    return any(f"{folder}/".startswith(f"{target.rstrip('/')}/") for folder in folders)


def report_left_out(base: str, left_out: Mapping[str, Sequence[str]]) -> None:
    """Prints on stderr what `walk_images` has left out of a folder."""
    for reason, paths in left_out.items():
        report_files(base, "file", reason, paths)


def report_files(base: str, noun: str, reason: str, paths: Sequence[str]) -> None:
    """Prints a note on how many files, or other things, are left out, and the first of them.

    Args:
      base: the folder.
      noun: in the singular: "file".
      reason: why they are left out, to follow the noun.
      paths: of what is left out; if there are none, nothing is printed.
    """
    if paths:
        count = f"{len(paths)} {noun}{'s' if len(paths) > 1 else ''}"
        names = first_names([os.path.relpath(path, base) for path in sorted(paths)])
        note(f"{base}: left out {count} {reason}: {names}")


def path_order(path: str) -> tuple[str, str]:
    """Returns the key by which paths are sorted: first by their Unicode normal form C.

    So a copy in another normal form, which has the same fingerprint, has the same order.
    """
    return normal_form(path), path


def list_images(root: Path, setting: str) -> dict[str, int]:
    """Returns the images in a folder, at any depth: path relative to it -> size in bytes.

    They are in `path_order`. What is left out, see `walk_images`, is reported on stderr.

    Args:
      root: the folder.
      setting: that names it, for the error.

    Raises:
      UserError: if there are none, or a file or folder cannot be read.
    """
    sizes = {}
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    try:
        if root.is_dir():
            for file in walk_images(str(root), (), left_out):
                sizes[Path(file.path).relative_to(root).as_posix()] = file.stat().st_size
    except OSError as error:
        raise UserError(f"{setting}: {error.filename} cannot be read: {error.strerror}") from error
    report_left_out(str(root), left_out)
    if not sizes:
        raise UserError(f"{setting}: {root} is not a folder with images")
    return {name: sizes[name] for name in sorted(sizes, key=path_order)}


class ImageFiles:
    """Image files as records with the label 0; see `RecordSource`."""

    def __init__(self, root: Path, names: Sequence[str]):
        """Stores the folder and the paths of the files relative to it."""
        self._root, self._names = root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitems__(self, keys: Sequence[int]) -> Sequence[dict[str, Any]]:
        """See `RecordSource.__getitems__`."""
        names = (self._names[key] for key in keys)
        return [
            {"id": name.encode(errors="surrogateescape"), "image": self._read(name), "label": 0}
            for name in names
        ]

    def check(self) -> None:
        """Decodes all files once.

        Raises:
          UserError: naming the damaged files, the first twenty of them.
        """
        files = (ImageFile(name, 0, partial(self._read, name)) for name in self._names)
        for _ in checked_examples(files, f"{self._root}/", BAD_FILES_ADVICE):
            pass

    def _read(self, name: str) -> bytes:
        return read_file(self._root / name)


def read_file(path: Path) -> bytes:
    """Returns the content of an image file.

    Raises:
      UserError: if it cannot be read, or is a pipe, a socket or a device.
    """
    try:
        if is_special(path):  # reading a pipe would wait forever
            raise UserError(f"{path} cannot be read: it is a pipe, socket or device")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
