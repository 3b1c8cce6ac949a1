"""Data sets by name: prepared once by tfds, then read without TensorFlow."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

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
from amdjax.data.sources import ImageSource, StreamedSource, decode_to_memory
from amdjax.errors import UserError, unknown_name


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, ready to be read.

    Attributes:
      name: its name in `DATASETS`.
      class_names: in the order of the labels.
      image_shape: (H, W, 3) of every image.
      train: what to train with.
      test: what to evaluate on.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: ImageSource
    test: ImageSource

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A known data set.

    Attributes:
      summary: one line for people.
      builder: (config.data, folder of all prepared sets) -> tfds builder.
    """

    summary: str
    builder: Callable[[ml_collections.ConfigDict, Path], tfds.core.DatasetBuilder]


def _folder(data: ml_collections.ConfigDict, data_dir: Path) -> tfds.core.DatasetBuilder:
    if not data.folder:
        raise UserError("data set 'folder' needs config.data.folder, the path of the images")
    _need_size(data)
    return Folder(config=list_folder(Path(data.folder)), data_dir=data_dir)


def _imagenet(data: ml_collections.ConfigDict, data_dir: Path) -> tfds.core.DatasetBuilder:
    _need_size(data)
    return Imagenet(data_dir=data_dir)


def _need_size(data: ml_collections.ConfigDict) -> None:
    if not data.image_size:
        raise UserError(
            f"data set {data.name!r} needs config.data.image_size, the size to train at"
        )


DATASETS: dict[str, Entry] = {
    "cifar10": Entry(
        "CIFAR-10: 50,000 + 10,000 images, 32x32, 10 classes",
        lambda data, data_dir: Cifar10(data_dir=data_dir),
    ),
    "cifar100": Entry(
        "CIFAR-100: 50,000 + 10,000 images, 32x32, 100 classes",
        lambda data, data_dir: Cifar100(data_dir=data_dir),
    ),
    "cinic10": Entry(
        "CINIC-10: 90,000 + 90,000 images, 32x32, 10 classes",
        lambda data, data_dir: Cinic10(data_dir=data_dir),
    ),
    "digits": Entry(
        "scikit-learn's handwritten digits: 1,437 + 360 images, 32x32, 10 classes; no download",
        lambda data, data_dir: Digits(data_dir=data_dir),
    ),
    "fashion_mnist": Entry(
        "Fashion-MNIST: 60,000 + 10,000 images, 28x28, 10 classes",
        lambda data, data_dir: FashionMnist(data_dir=data_dir),
    ),
    "folder": Entry("your own images: train/CLASS/* and test/CLASS/* (or val/CLASS/*)", _folder),
    "imagenet": Entry("ImageNet: 1,281,167 + 50,000 images, 1,000 classes", _imagenet),
    "mnist": Entry(
        "MNIST: 60,000 + 10,000 images, 28x28, 10 classes",
        lambda data, data_dir: Mnist(data_dir=data_dir),
    ),
    "svhn_cropped": Entry(
        "SVHN, cropped digits: 73,257 + 26,032 images, 32x32, 10 classes",
        lambda data, data_dir: SvhnCropped(data_dir=data_dir),
    ),
    "tiny_imagenet": Entry(
        "Tiny-ImageNet: 100,000 + 10,000 images, 64x64, 200 classes",
        lambda data, data_dir: TinyImagenet(data_dir=data_dir),
    ),
}


def load_dataset(data: ml_collections.ConfigDict) -> Dataset:
    """Opens a data set; downloads and prepares it where that was not done yet.

    Args:
      data: `name`, a key of `DATASETS`; `data_dir`, where prepared sets lie ("": $TFDS_DATA_DIR
        or ~/tensorflow_datasets); `folder`, the images' path for "folder"; `image_size`, to
        which images are resized and cropped square (0: the set's own size); `memory_gib`, how
        much memory decoded images may take: train is decoded to memory if it fits, then test if
        it fits beside it, and what does not fit is decoded as it is read; `random_resized_crop`,
        ImageNet's crops: a random part of a training image, decoded anew in each epoch, and the
        middle of a test image.

    Raises:
      UserError: on a wrong setting, or files that are missing, damaged or mislabelled.
    """
    if data.name not in DATASETS:
        raise unknown_name("data set", data.name, DATASETS)
    if data.image_size < 0:
        raise UserError(f"config.data.image_size must be at least 0, not {data.image_size}")
    if data.random_resized_crop and not data.image_size:
        raise UserError("config.data.random_resized_crop needs config.data.image_size")
    fallback = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = Path(data.data_dir or fallback).expanduser()
    builder = prepare(lambda: DATASETS[data.name].builder(data, data_dir))
    class_names = tuple(builder.info.features["label"].names)
    size = data.image_size
    shape = (size, size, 3) if size else builder.info.features["image"].shape

    budget = data.memory_gib * 2**30
    splits: dict[str, ImageSource] = {}
    crops = {"train": "center", "test": "center"}
    if data.random_resized_crop:
        crops = {"train": "random_resized", "test": "center_224_256"}
    for name, crop in crops.items():
        source = open_split(builder, name)
        split = StreamedSource(f"{data.name} {name}", source, size, shape, len(class_names), crop)
        num_bytes = len(split) * shape[0] * shape[1] * shape[2]
        if num_bytes <= budget and crop != "random_resized":
            budget -= num_bytes
            split = decode_to_memory(split)
        splits[name] = split
    return Dataset(data.name, class_names, shape, **splits)
