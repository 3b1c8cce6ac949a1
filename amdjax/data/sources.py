"""Random access to the decoded images of one split: from its files, or from memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from amdjax.data.image_io import center_box, decode_image, one_line, random_resized_box
from amdjax.errors import UserError

_CHUNK = 256


class ImageSource(Protocol):
    """Labelled images; may be read from several threads at once."""

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def read(
        self, indices: np.ndarray, draw: tuple[int, int] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads examples.

        Args:
          indices: integers [n] in 0..len(self) - 1.
          draw: seed and epoch, which with the example's index decide a random crop.

        Returns:
          Images, uint8 [n,H,W,3], and labels, int32 [n].

        Raises:
          UserError: naming an example that cannot be used.
        """
        ...


class RecordSource(Protocol):
    """What tfds gives to read prepared records from, at random and from several threads."""

    def __len__(self) -> int:
        """Returns the number of records."""
        ...

    def __getitems__(self, keys: Sequence[int]) -> Sequence[dict[str, Any]]:
        """Returns records, each with "image" (encoded bytes), "label" and maybe "id"."""
        ...


class StreamedSource:
    """A split that is decoded as it is read."""

    def __init__(
        self,
        name: str,
        source: RecordSource,
        image_size: int,
        image_shape: tuple[int, int, int],
        num_classes: int,
        crop: str = "center",
    ):
        """Keeps the source, reads nothing yet.

        Args:
          name: what error messages call the split.
          source: the encoded examples.
          image_size: see `decode_image`.
          image_shape: [H,W,3] that every image must have then.
          num_classes: labels must be below it.
          crop: "center"; "random_resized", a new part of the image in each epoch; or
            "center_224_256", the middle as ImageNet's evaluation takes it.
        """
        self.name = name
        self._source = source
        self._image_size = image_size
        self.image_shape = image_shape
        self._num_classes = num_classes
        self._crop = crop

    def __len__(self) -> int:
        return len(self._source)

    def read(
        self, indices: np.ndarray, draw: tuple[int, int] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ImageSource.read`."""
        images = np.empty([len(indices), *self.image_shape], np.uint8)
        labels = np.empty([len(indices)], np.int32)
        try:
            examples = self._source.__getitems__(indices.tolist())  # 3 times as fast as singly
        except Exception as error:  # the record reader has no exception type of its own
            raise UserError(
                f"the prepared files of {self.name} cannot be read: {one_line(error)}; "
                "remove them, so that they are prepared anew"
            ) from error
        for row, (index, example) in enumerate(zip(indices, examples, strict=True)):
            images[row], labels[row] = self._decode(index, example, draw)
        return images, labels

    def _decode(
        self, index: int, example: dict[str, Any], draw: tuple[int, int]
    ) -> tuple[np.ndarray, int]:
        where = f"{self.name} example {index}"
        if "id" in example:
            where += f" ({example['id'].decode()})"
        label = int(example["label"])
        if not 0 <= label < self._num_classes:
            raise UserError(
                f"{where}: label {label} is outside the classes 0..{self._num_classes - 1}"
            )
        box = center_box if self._crop == "center_224_256" else None
        if self._crop == "random_resized":
            box = random_resized_box(np.random.default_rng([*draw, index]))
        image = decode_image(example["image"], self._image_size, where, box)
        if image.shape != self.image_shape:
            raise UserError(
                f"{where} is {image.shape[0]}x{image.shape[1]}, not {self.image_shape[0]}x"
                f"{self.image_shape[1]} (height x width); set config.data.image_size to resize all"
            )
        return image, label


class InMemorySource:
    """A split that lies decoded in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        """Keeps uint8 images [n,H,W,3] and int32 labels [n]."""
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def read(
        self, indices: np.ndarray, draw: tuple[int, int] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `ImageSource.read`."""
        return self._images[indices], self._labels[indices]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images, uint8 [n,H,W,3], and all labels, int32 [n]."""
        return self._images, self._labels


def decode_to_memory(split: StreamedSource) -> InMemorySource:
    """Decodes a whole split.

    Raises:
      UserError: naming the first example that cannot be used.
    """
    images = np.empty([len(split), *split.image_shape], np.uint8)
    labels = np.empty([len(split)], np.int32)

    def decode(first: int) -> int:
        rows = np.arange(first, min(first + _CHUNK, len(split)))
        images[rows], labels[rows] = split.read(rows)
        return len(rows)

    # disable=None: no bar where stderr is not a terminal
    bar = tqdm(total=len(split), desc=f"decoding {split.name}", unit=" images", disable=None)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with bar:
            for done in pool.map(decode, range(0, len(split), _CHUNK)):
                bar.update(done)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, decode no more
    return InMemorySource(images, labels)
