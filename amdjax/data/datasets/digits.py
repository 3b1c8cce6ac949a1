"""scikit-learn's handwritten digits: a real data set without a download."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from amdjax.data.image_io import encode_png
from amdjax.data.preparation import image_info

_NUM_TRAIN = 1437


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 grey images of 8x8, enlarged to 32x32 and stored as RGB PNG.

    The first 1,437 are "train"; the last 360, by other writers, are "test".
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=[str(digit) for digit in range(10)])
        return image_info(self, "scikit-learn's digits, enlarged.", labels, (32, 32, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        from sklearn.datasets import load_digits  # slow import, used here only

        digits = load_digits()
        train, test = slice(_NUM_TRAIN), slice(_NUM_TRAIN, None)
        return {
            "train": self._generate_examples(digits.images[train], digits.target[train]),
            "test": self._generate_examples(digits.images[test], digits.target[test]),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            grey = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
            png = encode_png(np.asarray(grey.resize((32, 32), Image.Resampling.BICUBIC)))
            yield index, {"id": str(index), "image": png, "label": int(label)}
