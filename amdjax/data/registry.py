"""Registry of data sets: those that tfds prepares, and arrays of users."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from amdjax.data.datasets.cifar import Cifar10, Cifar100
from amdjax.data.datasets.cinic10 import Cinic10
from amdjax.data.datasets.digits import Digits
from amdjax.data.datasets.folder import Folder, list_folder
from amdjax.data.datasets.imagenet import Imagenet
from amdjax.data.datasets.mnist import FashionMnist, Mnist
from amdjax.data.datasets.svhn import SvhnCropped
from amdjax.data.datasets.tiny_imagenet import TinyImagenet
from amdjax.data.fingerprint import Fingerprint, normal_form
from amdjax.data.sources import ImageSource
from amdjax.errors import UserError
from amdjax.files import local_path
from amdjax.registry import registering


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to be read.

    Attributes:
      name: its name in `DATASETS`.
      class_names: names of the classes, in the order of the labels.
      image_shape: (H, W, 3) of every image.
      train: the training images.
      test: the test images.
      digest: of the image files, see `Fingerprint`.
      labeled_digest: see `Fingerprint`.
      validation: images that are held out from training, on which the best network is chosen;
        None: there are none.
      unknown: the test images of the classes that are held out from all of these, with their
        labels in the whole data set; None: no class is held out.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: ImageSource
    test: ImageSource
    digest: str = ""
    labeled_digest: str | None = None
    validation: ImageSource | None = None
    unknown: ImageSource | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def selection_split(self) -> str:
        """The split on which the best network is chosen: "validation", or "test" without one."""
        return "test" if self.validation is None else "validation"

    @property
    def selection(self) -> ImageSource:
        """The images of `selection_split`, which are evaluated during training."""
        return self.test if self.validation is None else self.validation

    @property
    def fingerprint(self) -> Fingerprint:
        """Properties that are compared when a network is used with these data."""
        counts = {"train": len(self.train), "test": len(self.test)}
        if self.validation is not None:
            counts["validation"] = len(self.validation)
        return Fingerprint(
            self.name,
            self.class_names,
            self.image_shape,
            counts,
            self.digest,
            self.labeled_digest,
        )


MakeBuilder = Callable[[], tfds.core.DatasetBuilder]


class BuilderEntry(NamedTuple):
    """A known data set that tfds prepares.

    Attributes:
      builder: (`config.data`, directory of all prepared data sets) -> function that creates the
        tfds builder, as `prepare` takes it.
      summary: a one-line description.
      num_classes: C, as it is assumed before the data are prepared, of a data set whose archive has
        the names of the classes; None: the builder has the names.
    """

    builder: Callable[[ml_collections.ConfigDict, Path], MakeBuilder]
    summary: str
    num_classes: int | None = None


class ArrayEntry(NamedTuple):
    """A known data set that a function returns, see `register_dataset`.

    Attributes:
      load: "train" or "test" -> images, uint8 [N,H,W,3], and labels, int [N].
      class_names: in the order of the labels.
      summary: a one-line description.
    """

    load: Callable[[str], tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    summary: str


def _fixed(
    builder: type[tfds.core.DatasetBuilder],
) -> Callable[[ml_collections.ConfigDict, Path], MakeBuilder]:
    """Returns `BuilderEntry.builder` for a data set that needs no settings."""
    return lambda data, data_dir: partial(builder, data_dir=data_dir)


def _folder(data: ml_collections.ConfigDict, data_dir: Path) -> MakeBuilder:
    if not data.folder:
        raise UserError("data set 'folder' needs config.data.folder, the path of the images")
    _require_image_size(data)
    root = local_path(data.folder, "config.data.folder")
    return partial(Folder, config=list_folder(root, data.validation_split), data_dir=data_dir)


def _imagenet(data: ml_collections.ConfigDict, data_dir: Path) -> MakeBuilder:
    _require_image_size(data)
    return partial(Imagenet, data_dir=data_dir)


def _require_image_size(data: ml_collections.ConfigDict) -> None:
    if not data.image_size:
        raise UserError(
            f"data set {data.name!r} needs config.data.image_size, the side to which images are "
            "resized"
        )


DATASETS: dict[str, BuilderEntry | ArrayEntry] = {
    "cifar10": BuilderEntry(
        _fixed(Cifar10), "CIFAR-10: 50,000 + 10,000 images, 32x32, 10 classes", 10
    ),
    "cifar100": BuilderEntry(
        _fixed(Cifar100), "CIFAR-100: 50,000 + 10,000 images, 32x32, 100 classes", 100
    ),
    "cinic10": BuilderEntry(_fixed(Cinic10), "CINIC-10: 90,000 + 90,000 images, 32x32, 10 classes"),
    "digits": BuilderEntry(
        _fixed(Digits),
        "scikit-learn's handwritten digits: 1,437 + 360 images, 32x32, 10 classes; no download",
    ),
    "fashion_mnist": BuilderEntry(
        _fixed(FashionMnist), "Fashion-MNIST: 60,000 + 10,000 images, 28x28, 10 classes"
    ),
    "folder": BuilderEntry(
        _folder, "your images: train/CLASS/* and test/CLASS/*, or CLASS/*, or labels.csv"
    ),
    "imagenet": BuilderEntry(_imagenet, "ImageNet: 1,281,167 + 50,000 images, 1,000 classes", 1000),
    "mnist": BuilderEntry(_fixed(Mnist), "MNIST: 60,000 + 10,000 images, 28x28, 10 classes"),
    "svhn_cropped": BuilderEntry(
        _fixed(SvhnCropped), "SVHN, cropped digits: 73,257 + 26,032 images, 32x32, 10 classes"
    ),
    "tiny_imagenet": BuilderEntry(
        _fixed(TinyImagenet), "Tiny-ImageNet: 100,000 + 10,000 images, 64x64, 200 classes", 200
    ),
}


_Load = TypeVar("_Load", bound=Callable[[str], tuple[np.ndarray, np.ndarray]])


def register_dataset(
    name: str, summary: str, *, class_names: Sequence[str]
) -> Callable[[_Load], _Load]:
    """Returns a decorator that registers a data set of arrays.

    What is decorated is a function of the split, "train" or "test", that returns the images, uint8
    RGB [N,H,W,3] of one size, and the labels, int [N] in 0..C-1. It is called once for each split
    when a command starts. The digest of the arrays is part of the data's fingerprint.

    Args:
      name: of the data set, for `config.data.name`.
      summary: description in one line, for `--list`.
      class_names: of the C classes, in the order of the labels.

    Raises:
      UserError: if the name is taken, or there are fewer than two classes or two of one name.
    """
    names = tuple(normal_form(str(class_name)) for class_name in class_names)
    if isinstance(class_names, str) or len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"the data set {name!r} needs at least two class_names, all different, not "
            f"{class_names!r}"
        )

    return registering(DATASETS, "data set", name, lambda load: ArrayEntry(load, names, summary))


class DatasetSpec(NamedTuple):
    """Properties of a data set that are known before it is prepared.

    Attributes:
      num_classes: C.
      image_shape: (H, W, 3) of every image.
      open: prepares the data set, if that has not been done, and opens it.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    open: Callable[[], Dataset]
