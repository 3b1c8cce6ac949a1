"""Preparation of a data set by tfds, once, and access to its splits."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator

import tensorflow_datasets as tfds

from amdjax.data.sources import RecordSource
from amdjax.errors import UserError, note, one_line
from amdjax.files import disk_error, remedy


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
            note(f"preparing {builder.name} in {builder.data_dir} (once)")
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
