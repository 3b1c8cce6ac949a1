"""Archives of data sets: where they are, their files, and what is wrong with them."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from amdjax.errors import UserError, one_line

DOWNLOAD_AGAIN = "remove the archive and download it again"
_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {  # by their magic number
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_NOT_TAR = "it is not a tar archive, or compressed by a method other than gzip, bzip2 and xz"


def damaged(path: Path, reason: str) -> UserError:
    """Returns the error for an archive whose content is not what it should be."""
    return UserError(f"{path} is damaged: {reason}; {DOWNLOAD_AGAIN}")


def unreadable(path: Path, error: Exception, member: str = "") -> UserError:
    """Returns the error for an archive, or a member of it, at which a reader has failed."""
    if isinstance(error, OSError) and error.strerror:  # of the system, not of a decompressor
        return UserError(f"{path} cannot be read: {error.strerror}")
    return damaged(path, f"{member}: {one_line(error)}" if member else one_line(error))


def check_class_names(path: Path, file: str, names: Sequence[str], count: int) -> None:
    """Makes sure that an archive's class names are different, printable and as many as expected.

    Args:
      path: of the archive.
      file: in the archive.
      names: in the order of the labels.
      count: number of classes that the data set has.

    Raises:
      UserError: if they are not `count` different printable names.
    """
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise damaged(path, f"{file} has the class name {duplicate!r} twice")
    if len(names) != count:
        raise damaged(path, f"{file} has {len(names)} class names, not {count}")
    if not all(name.isprintable() for name in names):
        raise damaged(path, f"{file} is not a list of class names")


class _StrictTarInfo(tarfile.TarInfo):
    """The header of a member of an archive that must have an end mark.

    `tarfile` itself treats a missing or damaged header as the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictTarInfo":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # unknown to typeshed
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(
                f"{error} after {archive.offset:,} bytes" if archive.offset else _NOT_TAR
            ) from error


def tar_members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the files in a tar archive, compressed or not, in its order.

    The whole file is read: a compressed archive has its checksum at the end.

    Args:
      file: whose current position is the start of the archive.

    Raises:
      Exception: of many types, if the archive is damaged.
    """
    magic = file.read(6)
    file.seek(-len(magic), io.SEEK_CUR)
    for start, decompress in _DECOMPRESSORS.items():
        if magic.startswith(start):
            file = decompress(file)
            break
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_StrictTarInfo) as archive:
        for member in archive:
            if member.isfile():
                yield member.name, archive.extractfile(member).read()
        while rest := archive.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("there are data after its end")


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the files in a tar archive, compressed or not, in its order.

    Raises:
      UserError: naming the archive, if it is damaged.
    """
    try:
        with path.open("rb") as file:
            yield from tar_members(file)
    except Exception as error:  # tarfile and the decompressors raise many types
        raise unreadable(path, error) from error


def manual_path(builder: tfds.core.DatasetBuilder, name: str) -> Path:
    """Returns the path at which the user may provide an archive, downloaded by hand."""
    return Path(builder.data_dir_root) / "downloads" / "manual" / name


def find_archive(
    builder: tfds.core.DatasetBuilder,
    dl_manager: tfds.download.DownloadManager,
    url: str,
    name: str = "",
) -> Path:
    """Returns the path of an archive, which is downloaded unless the user has provided it.

    Args:
      builder: the builder that needs the archive.
      dl_manager: tfds's download manager.
      url: the source of the download.
      name: path of the user's file below downloads/manual; "": the last part of the URL.

    Raises:
      UserError: with the path for the user's file, if there is none and the download fails.
    """
    name = name or url.rpartition("/")[2]
    manual = manual_path(builder, name)
    if manual.exists():
        return manual
    downloader.MAX_RETRIES = 3  # tfds's default of 10 takes minutes without a network
    try:
        return Path(dl_manager.download(url))
    except Exception as error:  # network, proxy, disk or checksum: the remedy is the same
        raise UserError(
            f"{name} could not be downloaded from {url} ({one_line(error)}); "
            f"download it by other means and put it at {manual}"
        ) from error
