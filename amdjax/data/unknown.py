"""Images of unknown classes, on which the report evaluates open-set scores."""

from typing import NamedTuple

import ml_collections

from amdjax.data.image_files import ImageFiles, list_images
from amdjax.data.load import load_dataset
from amdjax.data.registry import DATASETS, Dataset
from amdjax.data.sources import ImageSource, StreamedSource, choose_crop
from amdjax.errors import UserError
from amdjax.files import local_path


class UnknownImages(NamedTuple):
    """Images of classes that are not among those of a data set.

    Attributes:
      description: where they come from, such as "svhn_cropped".
      source: the images, of the size of the data set's; their labels have no meaning.
    """

    description: str
    source: ImageSource


def check_unknown(data: ml_collections.ConfigDict, setting: str = "config.data.unknown") -> None:
    """Checks `config.data.unknown` without reading images.

    Args:
      data: `config.data`, with `unknown`, see `open_unknown`.
      setting: that gives it, for the message.

    Raises:
      UserError: if it names neither another data set nor a folder.
    """
    if not data.unknown or (data.unknown in DATASETS and data.unknown not in ("folder", data.name)):
        return
    if data.unknown == data.name and data.name != "folder":
        raise UserError(
            f"{setting}={data.unknown!r} is the data set of the known classes; choose "
            "another one, or hold classes out with config.data.unknown_classes"
        )
    if data.unknown == "folder" or not local_path(data.unknown, setting).is_dir():
        names = ", ".join(sorted(name for name in DATASETS if name not in ("folder", data.name)))
        raise UserError(
            f"{setting}={data.unknown!r} is neither another data set ({names}) nor the path of a "
            "folder with images"
        )


def open_unknown(
    dataset: Dataset, data: ml_collections.ConfigDict, setting: str = "config.data.unknown"
) -> UnknownImages | None:
    """Opens the images of unknown classes; prepares their data set first if necessary.

    Args:
      dataset: the known classes.
      data: `config.data`, with `unknown`: the name of another data set, whose test split is taken,
        or a folder with images at any depth; "": the test images of the classes that are held out
        with `unknown_classes`. The images are resized to the size of the data set's.
      setting: that gives `unknown`, for the message.

    Returns:
      The images; None if neither is given.

    Raises:
      UserError: on a wrong setting, or images that cannot be used.
    """
    check_unknown(data, setting)
    if not data.unknown:
        if dataset.unknown is None:
            return None
        names = ", ".join(map(str, data.unknown_classes))
        return UnknownImages(f"the classes {names}", dataset.unknown)
    height, width, _ = dataset.image_shape
    size = height if height == width else 0
    if data.unknown in DATASETS:
        other = data.copy_and_resolve_references()
        other.update(name=data.unknown, image_size=size, unknown_classes=(), memory_gib=0.0)
        other.update(validation=0.0, validation_split="")
        opened = load_dataset(other)
        if opened.image_shape != dataset.image_shape:
            raise UserError(
                f"{setting}={data.unknown!r} has images {list(opened.image_shape)}, and "
                f"{dataset.name!r} has {list(dataset.image_shape)}; set config.data.image_size"
            )
        return UnknownImages(data.unknown, opened.test)
    root = local_path(data.unknown, setting)
    files = ImageFiles(root, list(list_images(root, setting)))
    crop = choose_crop(data.random_resized_crop, "unknown")
    source = StreamedSource(str(root), files, size, dataset.image_shape, 1, crop)
    return UnknownImages(str(root), source)
