"""Training images without labels: a folder of images, for losses that read outputs of a teacher."""

import dataclasses
import math
from collections.abc import Iterator

import ml_collections
import numpy as np

from amdjax.data.fingerprint import digest_files, normal_form
from amdjax.data.image_files import ImageFiles, list_images
from amdjax.data.registry import Dataset
from amdjax.data.sources import (
    ImageSource,
    InMemorySource,
    StreamedSource,
    choose_crop,
    decode_to_memory,
)
from amdjax.errors import UserError
from amdjax.files import local_path

NO_LABEL = -1
_UNLABELED = 2**32 - 1  # part of the seed: the labelled image of the same index has other crops


def add_unlabeled(dataset: Dataset, data: ml_collections.ConfigDict) -> Dataset:
    """Adds the images of `config.data.unlabeled` to the training images, with the label -1.

    The classes, the test and the validation split stay. The digest of the data changes.

    Args:
      dataset: with labels.
      data: `config.data`, of which `unlabeled` is a folder with images at any depth ("": there are
        none), and `unlabeled_only` leaves the labelled ones out. The images are held in memory if
        they fit in what the data set leaves of `memory_gib`, together with the labelled ones if a
        copy of these fits, too; otherwise each is read when a batch needs it.

    Raises:
      UserError: if the folder has no images; or, where they are held in memory, if some cannot be
        used: naming the damaged ones, the first twenty of them, or else the first of another size.
    """
    if not data.unlabeled:
        return dataset
    root = local_path(data.unlabeled, "config.data.unlabeled")
    sizes = list_images(root, "config.data.unlabeled")
    crop = choose_crop(data.random_resized_crop, "train")
    files = ImageFiles(root, list(sizes))
    streamed = StreamedSource(str(root), files, data.image_size, dataset.image_shape, 1, crop)
    free = data.memory_gib * 2**30 - _memory(dataset)  # bytes

    def fits(images: int) -> bool:
        return images * math.prod(dataset.image_shape) <= free

    labeled = None if data.unlabeled_only else dataset.train
    train: ImageSource = _Unlabeled(streamed)
    if fits(len(sizes)) and not streamed.has_random_crop:
        copied = None
        if isinstance(labeled, InMemorySource) and fits(len(labeled) + len(sizes)):
            labeled, copied = None, labeled  # one array can be kept on a device
        try:
            train = decode_to_memory(streamed, copied)
        except UserError:
            files.check()  # names all damaged files; the error names only the first
            raise
        train.arrays()[1][-len(sizes) :] = NO_LABEL
    if labeled is not None:
        train = _Joined(labeled, train)
    names = [(normal_form(name), size) for name, size in sizes.items()]
    only = "only" if data.unlabeled_only else "and"
    digest = digest_files([*names, (f"{only} {dataset.digest}", 0)])
    return dataclasses.replace(dataset, train=train, digest=digest, labeled_digest=dataset.digest)


def _memory(dataset: Dataset) -> int:
    """Returns the bytes of the decoded images that a data set holds in memory."""
    splits = (dataset.train, dataset.test, dataset.validation, dataset.unknown)
    return sum(split.arrays()[0].nbytes for split in splits if isinstance(split, InMemorySource))


class _Unlabeled:
    """A source of which the labels are -1; see `ImageSource`."""

    def __init__(self, source: ImageSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def read(
        self, indices: np.ndarray, crop_seed: tuple[int, ...] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        images, _ = self._source.read(indices, (*crop_seed, _UNLABELED))
        return images, np.full(len(images), NO_LABEL, np.int32)

    def entries(self, indices: np.ndarray) -> list[tuple[str, int]]:
        return [(name, NO_LABEL) for name, _ in self._source.entries(indices)]


class _Joined:
    """The examples of two sources, one after the other; see `ImageSource`."""

    def __init__(self, first: ImageSource, second: ImageSource):
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def read(
        self, indices: np.ndarray, crop_seed: tuple[int, ...] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = [source.read(own, crop_seed) for source, own in self._by_source(indices)]
        order = self._order(indices)
        images, labels = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
        return images, labels

    def entries(self, indices: np.ndarray) -> list[tuple[str, int]]:
        parts = [source.entries(own) for source, own in self._by_source(indices)]
        entries = [entry for part in parts for entry in part]
        return [entries[row] for row in self._order(indices)]

    def _order(self, indices: np.ndarray) -> np.ndarray:
        """Returns the position of each index among the examples of `_by_source`."""
        return np.argsort(np.argsort(indices >= len(self._first), kind="stable"))

    def _by_source(self, indices: np.ndarray) -> Iterator[tuple[ImageSource, np.ndarray]]:
        """Yields each source that has examples among the indices, with its own indices of them."""
        in_first = indices < len(self._first)
        if in_first.any():
            yield self._first, indices[in_first]
        if not in_first.all():
            yield self._second, indices[~in_first] - len(self._first)
