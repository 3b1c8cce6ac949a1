"""What the builders share: finding an archive, checking every image, preparing without noise."""

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
from amdjax.data.sources import RecordSource
from amdjax.errors import UserError

_CHUNK = 256


def image_info(
    builder: tfds.core.DatasetBuilder,
    description: str,
    labels: tfds.features.ClassLabel,
    image_shape: tuple[int | None, int | None, int],
) -> tfds.core.DatasetInfo:
    """Returns what tfds wants to know of a set of labelled image files.

    Args:
      builder: the builder that asks.
      description: one sentence.
      labels: the classes, in the order of their numbers.
      image_shape: [H,W,3], with None where it differs from file to file.
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
        disable_shuffling=True,  # example i is file i of the listing; batches are shuffled later
    )


class ImageFile(NamedTuple):
    """A labelled image file.

    Attributes:
      name: becomes the example's id.
      label: number of its class.
      read: returns its bytes; may be called from another thread.
    """

    name: str
    label: int
    read: Callable[[], bytes]


def checked_examples(
    files: Iterable[ImageFile], where: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields tfds's examples of image files, each decoded once to see that it is whole.

    Args:
      files: in the order of the examples.
      where: what goes before a name in an error message.

    Raises:
      UserError: naming the first file that is damaged.
    """

    def example(index: int, file: ImageFile) -> tuple[int, dict[str, Any]]:
        data = file.read()
        decode_image(data, 0, f"{where}{file.name}")
        return index, {"id": file.name, "image": data, "label": file.label}

    numbered = enumerate(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(itertools.islice(numbered, _CHUNK)):
            yield from pool.map(example, *zip(*chunk, strict=True))


def tar_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of the files in a tar archive, compressed or not, as they come.

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
    """Returns where an archive is looked for that the user got by hand."""
    return Path(builder.data_dir_root) / "downloads" / "manual" / name


def find_archive(
    builder: tfds.core.DatasetBuilder,
    dl_manager: tfds.download.DownloadManager,
    url: str,
    name: str = "",
) -> Path:
    """Returns the archive's path: where the user put it, or else where it was downloaded to.

    Args:
      builder: whose archive.
      dl_manager: tfds's.
      url: where to download it from.
      name: of the file that the user may have put there; "": the end of the URL.

    Raises:
      UserError: saying where to put it, if it is not there and cannot be downloaded.
    """
    name = name or url.rpartition("/")[2]
    manual = manual_path(builder, name)
    if manual.exists():
        return manual
    downloader.MAX_RETRIES = 3  # tfds's own 10 take minutes where there is no network at all
    try:
        return Path(dl_manager.download(url))
    except Exception as error:  # network, proxy, disk, checksum: the way out is the same
        raise UserError(
            f"{name} could not be downloaded from {url} ({one_line(error)}); "
            f"get it by other means and put it at {manual}"
        ) from error


def prepare(make: Callable[[], tfds.core.DatasetBuilder]) -> tfds.core.DatasetBuilder:
    """Returns a builder whose files lie in its data_dir, written now unless they were there.

    Args:
      make: makes the builder; called again after writing, to read back what was written.

    Raises:
      UserError: if the files cannot be written, or are there but incomplete.
    """
    with _quiet():
        builder = make()
        if not builder.data_path.exists():
            print(f"preparing {builder.name} in {builder.data_dir} (once)", file=sys.stderr)
            _write(builder)
            builder = make()
    if not builder.is_prepared():
        raise UserError(f"{builder.data_dir} holds no complete data set; remove it and try again")
    return builder


def _write(builder: tfds.core.DatasetBuilder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # stdout is for results
            builder.download_and_prepare(file_format="array_record")
    except OSError as error:
        # Another process of the same run may have finished first: then all is well.
        if not builder.data_path.exists():
            raise UserError(
                f"cannot prepare {builder.name} in {builder.data_dir}: {one_line(error)}"
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
    """Opens a prepared split for random access, images as encoded bytes.

    Raises:
      UserError: if it was prepared in a format that only TensorFlow reads, or is damaged.
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
