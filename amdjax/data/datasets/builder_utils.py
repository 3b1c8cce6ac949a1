"""Utilities of the tfds builders: archives, checks of every image, quiet preparation."""

import contextlib
import io
import itertools
import logging
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from amdjax.data.image_io import decode_image, one_line
from amdjax.data.sources import CHUNK, RecordSource
from amdjax.errors import UserError


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
    files: Iterable[ImageFile], prefix: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields image files as tfds examples, after decoding each once to check that it is intact.

    Args:
      files: the files, in the order of the examples.
      prefix: precedes the name of a file in error messages.

    Raises:
      UserError: naming the first damaged file.
    """

    def example(index: int, file: ImageFile) -> tuple[int, dict[str, Any]]:
        data = file.read()
        decode_image(data, 0, f"{prefix}{file.name}")
        return index, {"id": file.name, "image": data, "label": file.label}

    numbered = enumerate(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(itertools.islice(numbered, CHUNK)):
            yield from pool.map(example, *zip(*chunk, strict=True))


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the files in a tar archive, compressed or not, in its order.

    Raises:
      UserError: naming the archive, if it is damaged.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, archive.extractfile(member).read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error


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
    with _quiet():
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
    except OSError as error:
        # Another process of the same run may have prepared the files in the meantime.
        if not builder.data_path.exists():
            raise UserError(
                f"cannot prepare {builder.name} in {builder.data_dir}: {one_line(error)}"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
