"""CIFAR-10 and CIFAR-100: tfds's own builders, made to prepare without TensorFlow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from amdjax.data.datasets.builder_utils import find_archive, tar_files
from amdjax.data.image_io import encode_png
from amdjax.errors import UserError

_IMAGE_BYTES = 3 * 32 * 32


class _ReadInPython:
    """Replaces how `cifar.Cifar10` reads its archive; what comes out is the same."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        stock = self._cifar_info
        path = find_archive(self, dl_manager, stock.url)
        files = _extract(path, [*stock.label_files, *stock.train_files, *stock.test_files])
        record_bytes = len(stock.label_keys) + _IMAGE_BYTES
        for file in [*stock.train_files, *stock.test_files]:
            if not files[file] or len(files[file]) % record_bytes:
                raise UserError(f"{path}: {file} is not a whole number of images")
        for key, file in zip(stock.label_keys, stock.label_files, strict=True):
            names = files[file].decode().split("\n")
            self.info.features[key].names = [name for name in names if name]
        return {
            "train": self._generate_examples("train_", [files[f] for f in stock.train_files]),
            "test": self._generate_examples("test_", [files[f] for f in stock.test_files]),
        }

    def _generate_examples(
        self, split_prefix: str, files: Sequence[bytes]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, len(keys) + _IMAGE_BYTES)
        for index, record in enumerate(records):
            example = dict(zip(keys, record[: len(keys)].tolist(), strict=True))
            image = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            png = encode_png(np.ascontiguousarray(image))
            yield index, {**example, "id": f"{split_prefix}{index:05d}", "image": png}


def _extract(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Returns the named files of an archive, whatever folder they are in."""
    files = ((name.rpartition("/")[2], data) for name, data in tar_files(path))
    found = {name: data for name, data in files if name in names}
    for name in names:
        if name not in found:
            raise UserError(f"{path} is not CIFAR's binary version: it has no {name}")
    return found


# tfds keeps its own classes under these names; these are found through amdjax.data.DATASETS.
class Cifar10(_ReadInPython, cifar.Cifar10, skip_registration=True):
    """CIFAR-10 as tfds lays it out, 32x32, 50,000 and 10,000 images."""


class Cifar100(_ReadInPython, cifar.Cifar100, skip_registration=True):
    """CIFAR-100 as tfds lays it out, 32x32, 50,000 and 10,000 images."""
