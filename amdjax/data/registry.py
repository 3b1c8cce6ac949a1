"""Registry of data sets, which tfds prepares once and which are read without TensorFlow."""

import dataclasses
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ml_collections
import tensorflow_datasets as tfds

from amdjax.data.datasets.builder_utils import open_split, prepare
from amdjax.data.datasets.cifar import Cifar10, Cifar100
from amdjax.data.datasets.cinic10 import Cinic10
from amdjax.data.datasets.digits import Digits
from amdjax.data.datasets.folder import Folder, list_folder
from amdjax.data.datasets.imagenet import Imagenet
from amdjax.data.datasets.mnist import FashionMnist, Mnist
from amdjax.data.datasets.svhn import SvhnCropped
from amdjax.data.datasets.tiny_imagenet import TinyImagenet
from amdjax.data.fingerprint import Fingerprint
from amdjax.data.sources import ImageSource, StreamedSource, decode_to_memory
from amdjax.errors import UserError, unknown_name
from amdjax.files import local_path


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
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: ImageSource
    test: ImageSource
    digest: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> Fingerprint:
        """What is compared when a network is used with these data."""
        counts = {"train": len(self.train), "test": len(self.test)}
        return Fingerprint(self.name, self.class_names, self.image_shape, counts, self.digest)


_MakeBuilder = Callable[[], tfds.core.DatasetBuilder]


class Entry(NamedTuple):
    """A known data set.

    Attributes:
      builder: (`config.data`, directory of all prepared data sets) -> function that creates the
        tfds builder, as `prepare` takes it.
      summary: a one-line description.
    """

    builder: Callable[[ml_collections.ConfigDict, Path], _MakeBuilder]
    summary: str


def _fixed(
    builder: type[tfds.core.DatasetBuilder],
) -> Callable[[ml_collections.ConfigDict, Path], _MakeBuilder]:
    """Returns `Entry.builder` for a data set that needs no settings."""
    return lambda data, data_dir: partial(builder, data_dir=data_dir)


def _folder(data: ml_collections.ConfigDict, data_dir: Path) -> _MakeBuilder:
    if not data.folder:
        raise UserError("data set 'folder' needs config.data.folder, the path of the images")
    _require_image_size(data)
    return partial(
        Folder, config=list_folder(local_path(data.folder, "config.data.folder")), data_dir=data_dir
    )


def _imagenet(data: ml_collections.ConfigDict, data_dir: Path) -> _MakeBuilder:
    _require_image_size(data)
    return partial(Imagenet, data_dir=data_dir)


def _require_image_size(data: ml_collections.ConfigDict) -> None:
    if not data.image_size:
        raise UserError(
            f"data set {data.name!r} needs config.data.image_size, the side to which images are "
            "resized"
        )


DATASETS: dict[str, Entry] = {
    "cifar10": Entry(_fixed(Cifar10), "CIFAR-10: 50,000 + 10,000 images, 32x32, 10 classes"),
    "cifar100": Entry(_fixed(Cifar100), "CIFAR-100: 50,000 + 10,000 images, 32x32, 100 classes"),
    "cinic10": Entry(_fixed(Cinic10), "CINIC-10: 90,000 + 90,000 images, 32x32, 10 classes"),
    "digits": Entry(
        _fixed(Digits),
        "scikit-learn's handwritten digits: 1,437 + 360 images, 32x32, 10 classes; no download",
    ),
    "fashion_mnist": Entry(
        _fixed(FashionMnist), "Fashion-MNIST: 60,000 + 10,000 images, 28x28, 10 classes"
    ),
    "folder": Entry(_folder, "your images: train/CLASS/* and test/CLASS/* (or val/CLASS/*)"),
    "imagenet": Entry(_imagenet, "ImageNet: 1,281,167 + 50,000 images, 1,000 classes"),
    "mnist": Entry(_fixed(Mnist), "MNIST: 60,000 + 10,000 images, 28x28, 10 classes"),
    "svhn_cropped": Entry(
        _fixed(SvhnCropped), "SVHN, cropped digits: 73,257 + 26,032 images, 32x32, 10 classes"
    ),
    "tiny_imagenet": Entry(
        _fixed(TinyImagenet), "Tiny-ImageNet: 100,000 + 10,000 images, 64x64, 200 classes"
    ),
}


class DatasetSpec(NamedTuple):
    """What is known of a data set before it is prepared.

    Attributes:
      num_classes: C.
      image_shape: (H, W, 3) of every image.
      make_builder: creates the tfds builder.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    make_builder: _MakeBuilder


def describe_dataset(data: ml_collections.ConfigDict) -> DatasetSpec:
    """Checks `config.data` and describes the data set; reads and writes no images.

    Args:
      data: see `load_dataset`.

    Raises:
      UserError: on a wrong setting, or an image folder that is missing or empty.
    """
    if data.name not in DATASETS:
        raise unknown_name("data set", data.name, DATASETS)
    if data.image_size < 0:
        raise UserError(f"config.data.image_size must be at least 0, not {data.image_size}")
    if data.random_resized_crop and not data.image_size:
        raise UserError("config.data.random_resized_crop needs config.data.image_size")
    data_dir = data.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = local_path(data_dir, "config.data.data_dir")
    make_builder = DATASETS[data.name].builder(data, data_dir)
    features = make_builder().info.features
    size = data.image_size
    shape = (size, size, 3) if size else features["image"].shape
    return DatasetSpec(features["label"].num_classes, shape, make_builder)


def load_dataset(data: ml_collections.ConfigDict, spec: DatasetSpec | None = None) -> Dataset:
    """Opens a data set; downloads and prepares it first if that has not been done.

    Args:
      data: `config.data`, with
        `name`, a key of `DATASETS`;
        `data_dir`, the directory of the prepared data sets ("": $TFDS_DATA_DIR or
        ~/tensorflow_datasets);
        `folder`, the path of the images for "folder";
        `image_size`, the side to which images are resized and cropped square (0: the size of the
        data set);
        `memory_gib`, the memory for decoded images: train is held in memory if it fits, then test
        if it fits in the rest, and a split that does not fit is decoded at each read;
        `random_resized_crop`, ImageNet's crops: a random part of each training image, different
        in each epoch, and the centre of each test image.
      spec: from `describe_dataset`, if it was called before.

    Raises:
      UserError: on a wrong setting, or on files that are missing, damaged or mislabelled.
    """
    if spec is None:
        spec = describe_dataset(data)
    builder, shape = prepare(spec.make_builder), spec.image_shape
    class_names = tuple(builder.info.features["label"].names)

    budget = data.memory_gib * 2**30
    sources: dict[str, ImageSource] = {}
    crops = {"train": "center", "test": "center"}
    if data.random_resized_crop:
        crops = {"train": "random_resized", "test": "center_224_256"}
    for split, crop in crops.items():
        records = open_split(builder, split)
        source = StreamedSource(
            f"{data.name} {split}", records, data.image_size, shape, len(class_names), crop
        )
        num_bytes = len(source) * math.prod(shape)
        if num_bytes <= budget and crop != "random_resized":
            budget -= num_bytes
            source = decode_to_memory(source)
        sources[split] = source
    digest = getattr(builder.builder_config, "content_digest", "")
    return Dataset(data.name, class_names, shape, **sources, digest=digest)
