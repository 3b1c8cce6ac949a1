"""CIFAR-10 and CIFAR-100: tfds's builders, changed to prepare without TensorFlow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from amdjax.data.archives import check_class_names, damaged, find_archive, tar_files, unreadable
from amdjax.data.image_io import encode_png

_IMAGE_BYTES = 3 * 32 * 32


class _BinaryReader:
    """Mix-in that yields the examples of `cifar.Cifar10`, but reads without TensorFlow."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        stock = self._cifar_info
        path = find_archive(self, dl_manager, stock.url)
        files = _extract(path, [*stock.label_files, *stock.train_files, *stock.test_files])
        for key, file in zip(stock.label_keys, stock.label_files, strict=True):
            names = _class_names(path, file, files[file])
            check_class_names(path, file, names, self.info.features[key].num_classes)
            self.info.features[key].names = names
        counts = [self.info.features[key].num_classes for key in stock.label_keys]
        for file in [*stock.train_files, *stock.test_files]:
            if not files[file] or len(files[file]) % (len(counts) + _IMAGE_BYTES):
                raise damaged(path, f"{file} does not hold a whole number of images")
            labels = _records(files[file], len(counts))[:, : len(counts)]
            if (labels >= counts).any():
                raise damaged(path, f"{file} has a label outside the classes")
        return {
            "train": self._generate_examples("train_", [files[f] for f in stock.train_files]),
            "test": self._generate_examples("test_", [files[f] for f in stock.test_files]),
        }

    def _generate_examples(
        self, split_prefix: str, files: Sequence[bytes]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        for index, record in enumerate(_records(b"".join(files), len(keys))):
            example = dict(zip(keys, record[: len(keys)].tolist(), strict=True))
            image = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            png = encode_png(np.ascontiguousarray(image))
            yield index, {**example, "id": f"{split_prefix}{index:05d}", "image": png}


def _records(content: bytes, num_labels: int) -> np.ndarray:
    """Returns uint8 [N,num_labels+3072]: the labels and the pixels of each image."""
    return np.frombuffer(content, np.uint8).reshape(-1, num_labels + _IMAGE_BYTES)


def _class_names(path: Path, file: str, content: bytes) -> list[str]:
    try:
        return [name for name in content.decode().split("\n") if name]
    except UnicodeDecodeError as error:
        raise unreadable(path, error) from error


def _extract(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Returns the named files of an archive, in any of its folders."""
    files = ((name.rpartition("/")[2], data) for name, data in tar_files(path))
    found = {name: data for name, data in files if name in names}
    for name in names:
        if name not in found:
            raise damaged(path, f"it is not CIFAR's binary version: {name} is missing")
    return found


# Not registered with tfds, which has classes of the same names; see amdjax.data.DATASETS.
class Cifar10(_BinaryReader, cifar.Cifar10, skip_registration=True):
    """CIFAR-10 in tfds's format: 50,000 training and 10,000 test images of 32x32."""


class Cifar100(_BinaryReader, cifar.Cifar100, skip_registration=True):
    """CIFAR-100 in tfds's format: 50,000 training and 10,000 test images of 32x32."""
