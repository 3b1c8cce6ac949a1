"""Random access to the decoded images of one split, from prepared files or from memory."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from amdjax.data.image_io import decode_image, imagenet_crop_box, random_resized_box
from amdjax.errors import UserError, one_line
from amdjax.files import DAMAGE_ERRORS

# Images whose files a thread holds at one time: many large photos would take gigabytes of memory in
# all threads, and fewer small images would take longer.
CHUNK = 32


class ImageSource(Protocol):
    """Labelled images of one split; several threads may read at the same time."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def read(
        self, indices: np.ndarray, crop_seed: tuple[int, ...] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads examples.

        Args:
          indices: integers [n] in 0..len(self) - 1.
          crop_seed: seed and epoch, for some sources more. With the index of an example they
            determine its random crop; sources without random crops ignore them.

        Returns:
          Images, uint8 [n,H,W,3], and labels, int32 [n].

        Raises:
          UserError: naming the first example that cannot be used.
        """
        ...

    def entries(self, indices: np.ndarray) -> list[tuple[str, int]]:
        """Returns the id, the index where there is none, and the label of examples [n]."""
        ...


class RecordSource(Protocol):
    """Random access to prepared records, as tfds returns it; several threads may read."""

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def __getitems__(self, keys: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Returns records with "image" (encoded bytes), "label" and, in most data sets, "id"."""
        ...


class RecordSubset:
    """Some of the records of a source; see `RecordSource`."""

    def __init__(
        self, records: RecordSource, indices: np.ndarray, new_labels: np.ndarray | None = None
    ):
        """Stores the arguments.

        Args:
          records: all records.
          indices: int [n], of the chosen ones.
          new_labels: int [C], the label that replaces each label; None: they stay as they are.
        """
        self._records = records
        self._indices = indices
        self._new_labels = new_labels

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, keys: Sequence[int]) -> Sequence[dict[str, Any]]:
        """See `RecordSource.__getitems__`."""
        records = self._records.__getitems__(self._indices[list(keys)].tolist())
        if self._new_labels is None:
            return records
        return [{**record, "label": self._new_labels[record["label"]]} for record in records]


def choose_crop(random_resized_crop: bool, split: str) -> str:
    """Returns the crop of the images of a split, for `StreamedSource`.

    Args:
      random_resized_crop: `config.data.random_resized_crop`.
      split: "train" or another one.
    """
    if not random_resized_crop:
        return "center"
    return "random_resized" if split == "train" else "imagenet"


class StreamedSource:
    """A split whose images are decoded at each read."""

    def __init__(
        self,
        name: str,
        records: RecordSource,
        image_size: int,
        image_shape: tuple[int, int, int],
        num_classes: int,
        crop: str = "center",
    ):
        """Stores the arguments; reads nothing yet.

        Args:
          name: name of the split in error messages.
          records: the encoded examples.
          image_size: see `decode_image`.
          image_shape: (H, W, 3), required of every decoded image.
          num_classes: exclusive upper bound of the labels.
          crop: "center", the largest centre square; "random_resized", a new random crop in each
            epoch; or "imagenet", ImageNet's evaluation crop.
        """
        self.name = name
        self._records = records
        self._image_size = image_size
        self.image_shape = image_shape
        self._num_classes = num_classes
        self._crop = crop

    @property
    def has_random_crop(self) -> bool:
        """Whether each epoch has another crop of an image."""
        return self._crop == "random_resized"

    def __len__(self) -> int:
        return len(self._records)

    def read(
        self, indices: np.ndarray, crop_seed: tuple[int, ...] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ImageSource.read`."""
        images = np.empty([len(indices), *self.image_shape], np.uint8)
        labels = np.empty([len(indices)], np.int32)
        for row, (index, example) in enumerate(zip(indices, self._examples(indices), strict=True)):
            images[row], labels[row] = self._decode(index, example, crop_seed)
        return images, labels

    def entries(self, indices: np.ndarray) -> list[tuple[str, int]]:
        """See `ImageSource.entries`."""
        return [
            (
                example["id"].decode(errors="surrogateescape") if "id" in example else str(index),
                int(example["label"]),
            )
            for index, example in zip(indices, self._examples(indices), strict=True)
        ]

    def _examples(self, indices: np.ndarray) -> Sequence[dict[str, Any]]:
        try:
            # One call for all records is three times as fast as one call each.
            return self._records.__getitems__(indices.tolist())
        except (UserError, MemoryError):  # the first is about an image file that was not prepared
            raise
        except Exception as error:  # the record reader does not define an exception type
            problem = f"the prepared files of {self.name} cannot be read"
            if isinstance(error, OSError) and error.errno not in (None, *DAMAGE_ERRORS):
                raise UserError(f"{problem} now: {one_line(error)}") from error
            raise UserError(
                f"{problem}: {one_line(error)}; remove them, and they will be prepared again"
            ) from error

    def _decode(
        self, index: int, example: dict[str, Any], crop_seed: tuple[int, ...]
    ) -> tuple[np.ndarray, int]:
        name = f"{self.name} example {index}"
        if "id" in example:
            name += f" ({example['id'].decode(errors='surrogateescape')})"
        label = int(example["label"])
        if not 0 <= label < self._num_classes:
            raise UserError(
                f"{name}: label {label} is outside the classes 0..{self._num_classes - 1}"
            )
        box = imagenet_crop_box if self._crop == "imagenet" else None
        if self.has_random_crop:
            box = random_resized_box(np.random.default_rng([*crop_seed, index]))
        image = decode_image(example["image"], self._image_size, name, box)
        if image.shape != self.image_shape:
            raise UserError(
                f"{name} is {image.shape[0]}x{image.shape[1]}, not {self.image_shape[0]}x"
                f"{self.image_shape[1]} (height x width); set config.data.image_size to resize all "
                "images"
            )
        return image, label


class InMemorySource:
    """A split whose decoded images are held in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Stores images, uint8 [n,H,W,3], and labels, int32 [n], without copying them."""
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def read(
        self, indices: np.ndarray, crop_seed: tuple[int, ...] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ImageSource.read`."""
        return self._images[indices], self._labels[indices]

    def entries(self, indices: np.ndarray) -> list[tuple[str, int]]:
        """See `ImageSource.entries`; the images in memory have no ids."""
        return [(str(index), int(self._labels[index])) for index in indices]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images, uint8 [n,H,W,3], and all labels, int32 [n]."""
        return self._images, self._labels


def decode_to_memory(source: StreamedSource, first: InMemorySource | None = None) -> InMemorySource:
    """Decodes all images of a source, with several threads.

    Args:
      source: the images.
      first: examples in memory, of which copies come before those of the source; None: there are
        none.

    Raises:
      UserError: naming the first example that cannot be used.
    """
    start = 0 if first is None else len(first)
    images = np.empty([start + len(source), *source.image_shape], np.uint8)
    labels = np.empty([start + len(source)], np.int32)
    if first is not None:
        images[:start], labels[:start] = first.arrays()

    def decode(rows: np.ndarray) -> None:
        images[start + rows], labels[start + rows] = source.read(rows)

    _for_all_rows(len(source), decode, f"decoding {source.name}")
    return InMemorySource(images, labels)


def read_entries(source: ImageSource) -> tuple[list[str], np.ndarray]:
    """Returns ids and labels, int32 [n], of all images of a source, read with several threads.

    Raises:
      UserError: if the prepared files cannot be read.
    """
    names = [""] * len(source)
    labels = np.empty([len(source)], np.int32)

    def read(rows: np.ndarray) -> None:
        for row, (name, label) in zip(rows, source.entries(rows), strict=True):
            names[row], labels[row] = name, label

    _for_all_rows(len(source), read, "reading labels")
    return names, labels


def num_cpus() -> int:
    """Returns the number of processors that this process may use; a batch system may limit it."""
    return len(os.sched_getaffinity(0))


def _for_all_rows(count: int, action: Callable[[np.ndarray], None], description: str) -> None:
    """Calls a function in several threads with the indices 0..count - 1, a chunk at a time."""

    def on_chunk(first: int) -> int:
        rows = np.arange(first, min(first + CHUNK, count))
        action(rows)
        return len(rows)

    # disable=None: no progress bar if stderr is not a terminal.
    bar = tqdm(total=count, desc=description, unit=" images", disable=None)
    pool = ThreadPoolExecutor(num_cpus())
    try:
        with bar:
            for done in pool.map(on_chunk, range(0, count, CHUNK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, do not go on with the rest
