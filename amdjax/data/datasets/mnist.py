"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), from their official files."""

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from amdjax.data.archives import damaged, find_archive, unreadable
from amdjax.data.image_io import encode_png
from amdjax.data.preparation import image_info
from amdjax.errors import UserError

_FILES = {"train": "train", "test": "t10k"}


# Not registered with tfds, which has classes of the same names; see amdjax.data.DATASETS.
class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """10 classes of 28x28 grey images, stored as RGB: 60,000 training and 10,000 test images.

    The user's files are expected in downloads/manual/mnist/, as those of Fashion-MNIST have the
    same names.
    """

    VERSION = tfds.core.Version("1.0.0")
    SOURCE: ClassVar[str] = "https://storage.googleapis.com/cvdf-datasets/mnist/"
    CLASSES: ClassVar[tuple[str, ...]] = tuple(str(digit) for digit in range(10))

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=self.CLASSES)
        return image_info(self, f"{type(self).__name__}.", labels, (28, 28, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        def find(file: str) -> Path:
            return find_archive(self, dl_manager, self.SOURCE + file, f"{self.name}/{file}")

        return {
            split: self._generate_examples(
                find(f"{prefix}-images-idx3-ubyte.gz"), find(f"{prefix}-labels-idx1-ubyte.gz")
            )
            for split, prefix in _FILES.items()
        }

    def _generate_examples(
        self, images_path: Path, labels_path: Path
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise UserError(
                f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels; "
                "remove both and download them again"
            )
        if images.shape[1:] != (28, 28):
            raise damaged(images_path, f"its images are {images.shape[1:]}, not 28x28")
        if labels.max() >= len(self.CLASSES):
            raise damaged(labels_path, f"label {labels.max()} is outside the classes 0..9")
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"id": str(index), "image": encode_png(image), "label": int(label)}


class FashionMnist(Mnist, skip_registration=True):
    """10 classes of 28x28 grey images of clothes, in the format of MNIST."""

    SOURCE: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    CLASSES: ClassVar[tuple[str, ...]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads a compressed IDX file: 0, 0, type 8 (uint8), dimensions, sizes (big-endian), values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except Exception as error:  # gzip raises several types
        raise unreadable(path, error) from error
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise damaged(path, f"it is not an IDX file of {dimensions} dimensions of bytes")
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if len(content) - header != math.prod(shape):
        raise damaged(
            path,
            f"its header says {'x'.join(map(str, shape))} bytes, it has {len(content) - header}",
        )
    if not shape[0]:
        raise damaged(path, "it is empty")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
