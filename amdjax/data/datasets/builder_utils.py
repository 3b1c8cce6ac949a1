"""Utilities of the tfds builders: archives, checks of every image, quiet preparation."""

import bz2
import collections
import contextlib
import gzip
import io
import itertools
import logging
import lzma
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from amdjax.data.image_io import decode_image
from amdjax.data.sources import CHUNK, RecordSource
from amdjax.errors import UserError, one_line
from amdjax.files import disk_error, remedy

_DOWNLOAD_AGAIN = "remove the archive and download it again"
_MAX_NAMES = 20  # of damaged images, in one message
_DECOMPRESSORS: dict[bytes, Callable[[BinaryIO], Any]] = {  # by their magic number
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_NOT_TAR = "it is not a tar archive, or compressed by a method other than gzip, bzip2 and xz"


def image_info(
    builder: tfds.core.DatasetBuilder,
    description: str,
    labels: tfds.features.ClassLabel,
    image_shape: tuple[int | None, int | None, int],
) -> tfds.core.DatasetInfo:
    """Returns tfds's description of a data set of labelled images.

    Args:
      builder: the builder of the data set.
      description: one sentence.
      labels: the classes, in the order of the labels.
      image_shape: (H, W, 3), with None for a size that varies between images.
    """
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=image_shape),
                "label": labels,
            }
        ),
        supervised_keys=("image", "label"),
        disable_shuffling=True,  # example i is the i-th file; the batches are shuffled later
    )


class ImageFile(NamedTuple):
    """A labelled image file.

    Attributes:
      name: the id of the example.
      label: index of the class.
      read: returns the content of the file; may be called from another thread.
    """

    name: str
    label: int
    read: Callable[[], bytes]


def checked_examples(
    files: Iterable[ImageFile],
    prefix: str,
    advice: str = _DOWNLOAD_AGAIN,
    later: Iterable[ImageFile] = (),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields image files as tfds examples, after decoding each once to check that it is intact.

    After a damaged file nothing more is yielded, but the rest is checked, so that one message names
    every damaged file.

    Args:
      files: the files, in the order of the examples.
      prefix: precedes the name of a file in error messages.
      advice: what to do about damaged files.
      later: files of the splits that are prepared after this one, for that message.

    Raises:
      UserError: naming the damaged files, the first twenty of them.
    """

    def check(file: ImageFile) -> bytes | UserError:
        try:
            data = file.read()
            decode_image(data, 0, f"{prefix}{file.name}")
        except UserError as error:
            return error
        return data

    def checked(files: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, bytes | UserError]]:
        tasks = ((file, pool.submit(check, file)) for file in files)
        ahead = collections.deque(itertools.islice(tasks, CHUNK))
        while ahead:
            file, result = ahead.popleft()
            yield file, result.result()
            ahead.extend(itertools.islice(tasks, 1))

    damages: list[UserError] = []
    with ThreadPoolExecutor() as pool:
        for index, (file, data) in enumerate(checked(files)):
            if isinstance(data, UserError):
                damages.append(data)
            elif not damages:
                name = file.name.encode(errors="surrogateescape")
                yield index, {"id": name, "image": data, "label": file.label}
        if damages:
            damages += (data for _, data in checked(later) if isinstance(data, UserError))
    if len(damages) == 1:
        raise UserError(f"{damages[0]}; {advice}")
    if damages:
        lines = [f"  {error}" for error in damages[:_MAX_NAMES]]
        if len(damages) > _MAX_NAMES:
            lines.append(f"  and {len(damages) - _MAX_NAMES} more")
        raise UserError("\n".join([f"{len(damages)} images cannot be used; {advice}:", *lines]))


def damaged(path: Path, reason: str) -> UserError:
    """Returns the error for an archive whose content is not what it should be."""
    return UserError(f"{path} is damaged: {reason}; {_DOWNLOAD_AGAIN}")


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
        except tarfile.EOFHeaderError:
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


def prepare(make_builder: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files are prepared, and prepares them first if there are none.

    Args:
      make_builder: creates the builder; called again after the preparation, so that the builder
        reads its description from the files.

    Raises:
      UserError: if the files cannot be written or are incomplete.
    """
    with quiet():
        builder = make_builder()
        if not builder.data_path.exists():
            print(f"preparing {builder.name} in {builder.data_dir} (once)", file=sys.stderr)
            _write(builder)
            builder = make_builder()
    if not builder.is_prepared():
        raise UserError(f"{builder.data_dir} holds no complete data set; remove it and try again")
    return builder


def _write(builder: tfds.core.DatasetBuilder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # stdout is reserved for results
            builder.download_and_prepare(file_format="array_record")
    except (OSError, RuntimeError) as error:  # array_record's is a RuntimeError
        reason = disk_error(error)
        if not (reason or isinstance(error, OSError)):
            raise
        # Another process of the same run may have prepared the files in the meantime.
        if not builder.data_path.exists():
            advice = f"; {remedy(reason)} or choose another config.data.data_dir" if reason else ""
            raise UserError(
                f"cannot prepare {builder.name} in {builder.data_dir}: "
                f"{reason or one_line(error)}{advice}"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the warnings of tfds, which logs with absl, and of its downloads."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_split(builder: tfds.core.DatasetBuilder, split: str) -> RecordSource:
    """Opens a prepared split for random access; images stay encoded.

    Raises:
      UserError: if the files are damaged or have a format that only TensorFlow reads.
    """
    try:
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_dir} is prepared as {builder.info.file_format.value}, which only "
            "TensorFlow reads; choose another config.data.data_dir"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{builder.data_dir} cannot be read: {one_line(error)}; remove it and try again"
        ) from error
