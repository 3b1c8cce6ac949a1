"""From one step to a later one: batch by batch, or many steps as one program on the device."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from amdjax import parallel
from amdjax.answers import AnsweredBatches
from amdjax.data import MemorySplit, Split, TrainBatches, prefetch
from amdjax.models import Outputs
from amdjax.state import TrainState
from amdjax.step import make_train_steps

# (state, first, last) -> the state behind step `last`, and the metrics of steps first + 1 to last:
# arrays [n] with n at least last - first, or scalars of a single step.
Advance = Callable[[TrainState, int, int], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Feed:
    """What training is fed with.

    Attributes:
      step: from `make_train_step`.
      teacher: its variables, replicated; None where it is not asked in the step.
      batches: what each step trains on.
      answers: from `ask_teacher`, if the teacher was asked before.
      mesh: of all devices.
      seed: of the random numbers.
    """

    step: Callable[..., Any]
    teacher: dict | None
    batches: TrainBatches
    answers: Outputs | None
    mesh: Mesh
    seed: np.uint32

    def examples(self, split: Split, limit_gib: float) -> dict[str, Any] | None:
        """Returns the arrays to keep in every device's memory; None: each batch is to be sent.

        On CPU it is always None: XLA computes convolutions in a loop there fifty times as slowly.

        Args:
          split: that the batches are of.
          limit_gib: how much of a device's memory they may take, in 2^30 bytes.
        """
        if not parallel.on_accelerator() or not isinstance(split, MemorySplit):
            return None
        images, labels = split.arrays()
        examples = {"image": images, "label": labels}
        if self.answers is not None:
            examples["teacher"] = self.answers
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(examples))
        return examples if size <= limit_gib * 2**30 else None

    @contextlib.contextmanager
    def streaming(self, start: int, total: int) -> Iterator[Advance]:
        """Sends each batch to the devices, read ahead by threads.

        Args:
          start: steps done.
          total: steps to do.

        Yields:
          The function that advances by one step.
        """
        mapped = parallel.map_step(self.step, self.mesh, batch_argument=2, donate=(0,))
        batches = self.batches
        if self.answers is not None:
            batches = AnsweredBatches(batches, self.answers)
        with contextlib.closing(prefetch(batches, start, total)) as source:
            yield lambda state, first, last: mapped(
                state, self.teacher, parallel.shard(next(source), self.mesh), self.seed
            )

    @contextlib.contextmanager
    def resident(self, examples: dict[str, Any], longest: int) -> Iterator[Advance]:
        """Keeps all examples on every device, where a program of many steps picks its batches.

        The same examples in the same order with the same random numbers as `streaming`.

        Args:
          examples: arrays [n,...] that the batches are rows of.
          longest: most steps of one program.

        Yields:
          The function that advances by up to `longest` steps.
        """
        mapped = parallel.map_step(
            make_train_steps(self.step), self.mesh, batch_argument=3, donate=(0,), batch_axis=1
        )
        examples = parallel.replicate(examples, self.mesh)

        def advance(state: TrainState, first: int, last: int) -> tuple[TrainState, dict]:
            rows = [self.batches.indices(step) for step in range(first, last)]
            # One shape, so that the program is compiled once.
            padded = np.pad(np.asarray(rows, np.int32), ((0, longest - len(rows)), (0, 0)))
            indices = parallel.shard(padded, self.mesh, batch_axis=1)
            count = np.int32(last - first)
            return mapped(state, self.teacher, examples, indices, self.seed, count)

        yield advance


def spans(start: int, total: int, longest: int, halts: Callable[[int], bool]) -> Iterator[int]:
    """Yields the steps up to which to advance, one after the other.

    Args:
      start: steps done.
      total: steps to do.
      longest: most steps of one advance.
      halts: whether the host has something to do behind a step.

    Yields:
      Steps, rising, the last of them `total`.
    """
    last = start
    for step in range(start + 1, total + 1):
        if step - last == longest or step == total or halts(step):
            yield step
            last = step
