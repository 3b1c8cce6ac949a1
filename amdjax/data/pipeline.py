"""Batches as pure functions of the step: no iterator has a state that must be saved.

The order of epoch e is the permutation that `(seed, e)` gives, cut into global batches, of
which every process reads its own rows. So the global batches do not depend on the number of
processes, and a run goes on at step k by asking for batch k.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import numpy as np

from amdjax.data.sources import ImageSource
from amdjax.errors import UserError

Batch = dict[str, Any]


class Batches(Protocol):
    """Batches by number."""

    def __getitem__(self, index: int) -> Batch:
        """Returns this process's rows of a global batch."""
        ...


class TrainBatches:
    """Batch `step` of an endless stream, in a new order each epoch.

    Attributes:
      steps_per_epoch: full batches in the split; what is left over is dropped, and is different
        in every epoch.
    """

    def __init__(
        self,
        split: ImageSource,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Cuts a split into batches.

        Args:
          split: what to read.
          batch_size: of the global batch, over all processes.
          seed: of the order, 0 or more.
          process_index: whose rows to read.
          process_count: among how many processes a batch is divided.

        Raises:
          UserError: if the split does not fill one batch, or a batch cannot be divided evenly.
        """
        if len(split) < batch_size:
            raise UserError(
                f"{len(split)} training images do not fill one batch of {batch_size}; "
                "lower config.batch_size"
            )
        self.steps_per_epoch = len(split) // batch_size
        self._split = split
        self._batch_size = batch_size
        self._rows = _process_rows(batch_size, process_index, process_count)
        self._seed = seed
        # Reading ahead crosses the end of an epoch, so two orders are wanted at once.
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)

    def __getitem__(self, step: int) -> Batch:
        """Reads this process's rows of batch `step`.

        Returns:
          "image", uint8 [b,H,W,3], and "label", int32 [b]; b = batch_size / process_count.

        Raises:
          UserError: naming an example that cannot be used.
        """
        indices = self.indices(step)
        epoch = step // self.steps_per_epoch
        images, labels = self._split.read(indices, (self._seed, epoch))
        return {"image": images, "label": labels}

    def indices(self, step: int) -> np.ndarray:
        """Returns which examples are this process's rows of batch `step`, int [b]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        return self._order(epoch)[first : first + self._batch_size][self._rows]

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._split))


class EvalBatches:
    """Every example of a split exactly once, in order; the last batch is filled up."""

    def __init__(
        self, split: ImageSource, batch_size: int, process_index: int = 0, process_count: int = 1
    ):
        """Cuts a split into batches; arguments as for `TrainBatches`.

        Raises:
          UserError: if a batch cannot be divided evenly among the processes.
        """
        self._split = split
        self._batch_size = batch_size
        self._rows = _process_rows(batch_size, process_index, process_count)

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        """Reads this process's rows of batch `index`.

        Returns:
          "image", uint8 [b,H,W,3], "label", int32 [b], and "mask", bool [b], False where a row
          only fills up the batch; b = batch_size / process_count.

        Raises:
          UserError: naming an example that cannot be used.
        """
        batch = np.arange(index * self._batch_size, (index + 1) * self._batch_size)[self._rows]
        mask = batch < len(self._split)
        images, labels = self._split.read(np.where(mask, batch, 0))
        return {"image": images, "label": labels, "mask": mask}


def prefetch(batches: Batches, start: int, stop: int) -> Iterator[Batch]:
    """Yields batches[start], ..., batches[stop - 1], read ahead by threads.

    Raises:
      UserError: where reading a batch does, when its turn comes.
    """
    threads = min(8, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    steps = grain.MapDataset.range(start, stop).map(batches.__getitem__)
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()  # a consumer may stop early; its threads must not read on


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(
            f"config.batch_size={batch_size} cannot be divided among {process_count} processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)
