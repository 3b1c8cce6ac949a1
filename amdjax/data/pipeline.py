"""Batches as pure functions of the step: there is no iterator state to save.

The order of epoch e is a permutation that depends only on `(seed, e)`, and on NumPy, whose
generators may change with a version. It is cut into global batches, of which each process reads a
part of the rows. So the global batches do not depend on the number of processes, and a run resumes
at step k by reading batch k.
"""

import dataclasses
import functools
from collections.abc import Generator
from typing import Any, Protocol

import grain
import jax
import numpy as np

from amdjax.data.sources import ImageSource, num_cpus
from amdjax.errors import UserError

Batch = dict[str, Any]  # name ("image", "label", ...) -> array [B,...]


class Batches(Protocol):
    """Batches by index."""

    def __getitem__(self, index: int) -> Batch:
        """Returns this process's rows of a global batch."""
        ...


class TrainBatches:
    """Training batches of an endless stream, in a new order in each epoch.

    Attributes:
      steps_per_epoch: number of full batches in the source. The rest of an epoch's examples is
        dropped; these are different examples in each epoch.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Divides the examples of a source into batches.

        Args:
          source: the training images.
          batch_size: size of the global batch, over all processes.
          seed: seed of the order, 0 or more.
          process_index: the process whose rows are read.
          process_count: number of processes among which each batch is divided.

        Raises:
          UserError: if there are fewer examples than one batch needs, or a batch cannot be
            divided evenly among the processes.
        """
        if len(source) < batch_size:
            raise UserError(
                f"{len(source)} training images do not fill one batch of {batch_size}; "
                "lower config.batch_size"
            )
        self.steps_per_epoch = len(source) // batch_size
        self._source = source
        self._batch_size = batch_size
        self._rows = _process_rows(batch_size, process_index, process_count)
        self._seed = seed
        # Prefetching crosses the end of an epoch, so the orders of two epochs are kept.
        self._order = functools.lru_cache(maxsize=2)(self._epoch_order)

    def __getitem__(self, step: int) -> Batch:
        """Reads this process's rows of batch `step`.

        Returns:
          "image", uint8 [b,H,W,3], and "label", int32 [b]; b = batch_size / process_count.

        Raises:
          UserError: naming the first example that cannot be used.
        """
        indices = self.indices(step)
        epoch = step // self.steps_per_epoch
        images, labels = self._source.read(indices, crop_seed=(self._seed, epoch))
        return {"image": images, "label": labels}

    def indices(self, step: int) -> np.ndarray:
        """Returns the indices of this process's examples of batch `step`, int [b]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        return self._order(epoch)[first : first + self._batch_size][self._rows]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._source))


@dataclasses.dataclass(frozen=True)
class JoinedBatches:
    """Training batches to which rows of other arrays are added.

    Attributes:
      batches: of the images.
      arrays: name -> pytree of arrays with a row for each example of the source.
    """

    batches: TrainBatches
    arrays: dict[str, Any]

    def __getitem__(self, step: int) -> Batch:
        """Reads this process's rows of batch `step`."""
        indices = self.batches.indices(step)
        return {**self.batches[step], **jax.tree.map(lambda x: x[indices], self.arrays)}


class EvalBatches:
    """Evaluation batches: every example exactly once, in order; the last batch is padded."""

    def __init__(
        self, source: ImageSource, batch_size: int, process_index: int = 0, process_count: int = 1
    ):
        """Divides the examples of a source into batches; for the arguments see `TrainBatches`.

        Raises:
          UserError: if a batch cannot be divided evenly among the processes.
        """
        self._source = source
        self._batch_size = batch_size
        self._rows = _process_rows(batch_size, process_index, process_count)

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yields this process's rows of all batches, see `prefetch`."""
        return prefetch(self, 0, len(self))

    def __getitem__(self, index: int) -> Batch:
        """Reads this process's rows of batch `index`.

        Returns:
          "image", uint8 [b,H,W,3], "label", int32 [b], and "mask", bool [b], False for padding
          rows; b = batch_size / process_count.

        Raises:
          UserError: naming the first example that cannot be used.
        """
        first = index * self._batch_size
        indices = np.arange(first, first + self._batch_size)[self._rows]
        mask = indices < len(self._source)
        images, labels = self._source.read(np.where(mask, indices, 0))
        return {"image": images, "label": labels, "mask": mask}


def prefetch(batches: Batches, start: int, stop: int) -> Generator[Batch, None, None]:
    """Yields batches[start], ..., batches[stop - 1], read ahead of time by threads.

    Raises:
      UserError: in place of a batch that cannot be read, after the batches before it.
    """
    threads = min(8, num_cpus())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    steps = grain.MapDataset.range(start, stop).map(batches.__getitem__)
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()  # a consumer may stop early; the threads must then stop reading


def _process_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(
            f"config.batch_size={batch_size} cannot be divided among {process_count} processes"
        )
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)
