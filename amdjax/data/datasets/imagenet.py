"""ImageNet (ILSVRC 2012), from its official archives."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from scipy.io import loadmat

from amdjax.data.archives import (
    check_class_names,
    damaged,
    manual_path,
    tar_files,
    tar_members,
    unreadable,
)
from amdjax.data.image_examples import ImageFile, checked_examples
from amdjax.data.preparation import image_info
from amdjax.errors import UserError

_TRAIN, _VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"


class Imagenet(tfds.core.GeneratorBasedBuilder):
    """1,000 classes: 1,281,167 training images and, as "test", the 50,000 validation images.

    Classes are numbered in the order of their sorted WordNet ids, as in torchvision; a class name
    is the id and the first word. The three archives require an account at image-net.org, so they
    are not downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel()  # the names are read from the development kit
        return image_info(self, "ImageNet, ILSVRC 2012.", labels, (None, None, 3))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        paths = {name: manual_path(self, name) for name in (_TRAIN, _VAL, _DEVKIT)}
        for name, path in paths.items():
            if not path.exists():
                raise UserError(
                    f"ImageNet is not downloaded automatically: put {name}, from "
                    f"https://image-net.org/download-images.php, at {path}"
                )
        wnids, words, truth = _read_devkit(paths[_DEVKIT])
        classes = sorted(wnids)
        numbers = {wnid: number for number, wnid in enumerate(classes)}
        names = dict(zip(wnids, words, strict=True))
        self.info.features["label"].names = [
            f"{wnid} {names[wnid].split(',')[0]}" for wnid in classes
        ]
        labels = [numbers[wnids[number - 1]] for number in truth]
        return {
            "train": self._generate_examples(paths[_TRAIN], _train_files(paths[_TRAIN], numbers)),
            "test": self._generate_examples(paths[_VAL], _val_files(paths[_VAL], labels)),
        }

    def _generate_examples(
        self, path: Path, files: Iterator[ImageFile]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        return checked_examples(files, f"{path}: ")


def _read_devkit(path: Path) -> tuple[list[str], list[str], list[int]]:
    """Returns WordNet ids and words, by ILSVRC number - 1, and the validation labels (numbers)."""
    files = {}
    for name, data in tar_files(path):
        files[name.rpartition("/")[2]] = data
    try:
        synsets = loadmat(io.BytesIO(files[_META]), squeeze_me=True)["synsets"]
        leaves = sorted((s for s in synsets if s["num_children"] == 0), key=lambda s: s[0])
        truth = [int(line) for line in files[_TRUTH].split()]
        wnids, words = [str(s["WNID"]) for s in leaves], [str(s["words"]) for s in leaves]
    except Exception as error:  # SciPy's exceptions on damaged files are not documented
        raise unreadable(path, error, f"{_META} or {_TRUTH}") from error
    check_class_names(path, _META, wnids, len(wnids))
    if not truth or not 1 <= min(truth) <= max(truth) <= len(wnids):
        raise damaged(path, f"{_TRUTH} has a label outside the classes 1..{len(wnids)}")
    return wnids, words, truth


def _train_files(path: Path, numbers: dict[str, int]) -> Iterator[ImageFile]:
    without = set(numbers)
    for name, class_archive in tar_files(path):
        wnid = name.rpartition("/")[2].removesuffix(".tar")
        if wnid not in numbers:
            raise damaged(path, f"label {wnid!r} is not in the development kit")
        try:
            for member, data in tar_members(io.BytesIO(class_archive)):
                without.discard(wnid)
                yield ImageFile(member, numbers[wnid], lambda data=data: data)
        except Exception as error:  # tarfile and the decompressors raise many types
            raise unreadable(path, error, name) from error
    if without:
        raise damaged(path, f"it has no {min(without)}.tar with images")


def _val_files(path: Path, labels: list[int]) -> Iterator[ImageFile]:
    count = 0
    for name, data in tar_files(path):
        number = name.rpartition("_")[2].removesuffix(".JPEG")
        if not number.isdigit() or not 1 <= int(number) <= len(labels):
            raise damaged(path, f"{name} is not one of {len(labels)} validation images")
        count += 1
        yield ImageFile(name, labels[int(number) - 1], lambda data=data: data)
    if count != len(labels):
        raise damaged(path, f"it has {count} images, the development kit {len(labels)} labels")
