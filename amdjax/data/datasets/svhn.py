"""Street View House Numbers, cropped digits (Netzer et al., NIPS workshops 2011)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from scipy.io import loadmat

from amdjax.data.archives import damaged, find_archive, unreadable
from amdjax.data.image_io import encode_png
from amdjax.data.preparation import image_info

_URL = "http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat"


# Not registered with tfds, which has a class of the same name; see amdjax.data.DATASETS.
class SvhnCropped(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """10 classes of 32x32 images: 73,257 training and 26,032 test images.

    The "extra" images are not used.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=[str(digit) for digit in range(10)])
        return image_info(self, "SVHN, cropped digits.", labels, (32, 32, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            split: self._generate_examples(find_archive(self, dl_manager, _URL.format(split=split)))
            for split in ("train", "test")
        }

    def _generate_examples(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = _read(path)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            png = encode_png(np.ascontiguousarray(image))
            yield index, {"id": str(index), "image": png, "label": int(label)}


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 [N,32,32,3], and labels, int [N]; the file labels the digit 0 as 10."""
    try:
        content = loadmat(path)
        images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].ravel()
    except KeyError as error:
        raise damaged(path, f"the variable {error} is missing") from error
    except Exception as error:  # SciPy's exceptions on damaged files are not documented
        raise unreadable(path, error) from error
    if images.shape != (len(labels), 32, 32, 3) or images.dtype != np.uint8:
        raise damaged(
            path,
            f"the images are {images.dtype} {list(images.shape)}, not uint8 "
            f"[{len(labels)}, 32, 32, 3]",
        )
    if not len(labels):
        raise damaged(path, "it is empty")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise damaged(path, "a label is outside the classes 1..10")
    return images, labels.astype(int) % 10
