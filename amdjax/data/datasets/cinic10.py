"""CINIC-10 (Darlow et al., arXiv 1810.03505, 2018), from its official archive."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from amdjax.data.archives import damaged, find_archive, tar_files
from amdjax.data.image_examples import ImageFile, checked_examples
from amdjax.data.preparation import image_info

_URL = "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Cinic10(tfds.core.GeneratorBasedBuilder):
    """10 classes of 32x32 PNG files: 90,000 training and 90,000 test images.

    The official validation split, 90,000 more, is not used, as in the AMD paper.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=_CLASSES)
        return image_info(self, "CINIC-10, train and test.", labels, (32, 32, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        path = find_archive(self, dl_manager, _URL)
        return {split: self._generate_examples(path, split) for split in ("train", "test")}

    def _generate_examples(self, path: Path, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        return checked_examples(_files(path, split), f"{path}: ")


def _files(path: Path, split: str) -> Iterator[ImageFile]:
    is_empty = True
    for name, data in tar_files(path):
        *_, folder, class_name, file = ("", "", *name.removeprefix("./").split("/"))
        if folder != split or not file.endswith(".png"):
            continue
        if class_name not in _CLASSES:
            raise damaged(path, f"{name}: label {class_name!r} is not one of CINIC-10's classes")
        is_empty = False
        label = _CLASSES.index(class_name)
        yield ImageFile(f"{split}/{class_name}/{file}", label, lambda data=data: data)
    if is_empty:
        raise damaged(path, f"it has no {split}/CLASS/*.png")
