"""From one step to a later one: batch by batch, or many steps as one program on the device."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.data import Batch, Batches, ImageSource, InMemorySource, TrainBatches, prefetch
from amdjax.models import Outputs
from amdjax.training.teacher_cache import CachedTeacherBatches
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import scan_train_steps, vmap_train_step

# (states, first, last) -> the states behind step `last`, and for each the metrics of steps
# first + 1 to last: arrays [n] with n at least last - first, or scalars of a single step.
States = tuple[TrainState, ...]
Advance = Callable[[States, int, int], tuple[States, tuple[dict[str, jax.Array], ...]]]


@dataclasses.dataclass(frozen=True)
class StepRunner:
    """What the training of one network, or of several as one program, is fed with.

    Attributes:
      step: from `make_train_step`.
      teacher: its variables, replicated; None where it is not asked in the step.
      batches: what each step trains on, for each network.
      answers: from `cache_teacher_outputs`, if the teacher was asked before.
      mesh: of all devices.
      seeds: of the random numbers, uint32 [networks].
    """

    step: Callable[..., Any]
    teacher: dict | None
    batches: tuple[TrainBatches, ...]
    answers: Outputs | None
    mesh: Mesh
    seeds: np.ndarray

    def examples(self, split: ImageSource, limit_gib: float) -> dict[str, Any] | None:
        """Returns the arrays to keep in every device's memory; None: each batch is to be sent.

        On CPU it is always None: XLA computes convolutions in a loop there fifty times as slowly.

        Args:
          split: that the batches are of.
          limit_gib: how much of a device's memory they may take, in 2^30 bytes.
        """
        if not distributed.on_accelerator() or not isinstance(split, InMemorySource):
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
        step = vmap_train_step(self.step, in_axes=(None, 0, 0))
        mapped = distributed.shard_step(
            step, self.mesh, batch_argument=2, donate=(0,), batch_axis=1
        )
        batches = self.batches
        if self.answers is not None:
            batches = [CachedTeacherBatches(own, self.answers) for own in batches]
        with contextlib.closing(prefetch(_Stacked(batches), start, total)) as source:
            yield lambda states, first, last: mapped(
                states, self.teacher, distributed.shard(next(source), self.mesh, 1), self.seeds
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
        steps = vmap_train_step(scan_train_steps(self.step), in_axes=(None, None, 0, 0, None))
        mapped = distributed.shard_step(
            steps, self.mesh, batch_argument=3, donate=(0,), batch_axis=2
        )
        examples = distributed.replicate(examples, self.mesh)

        def advance(states: States, first: int, last: int) -> tuple[States, tuple[dict, ...]]:
            rows = [[own.indices(step) for step in range(first, last)] for own in self.batches]
            # One shape, so that the program is compiled once.
            missing = longest - (last - first)
            padded = np.pad(np.asarray(rows, np.int32), ((0, 0), (0, missing), (0, 0)))
            indices = distributed.shard(padded, self.mesh, batch_axis=2)
            count = np.int32(last - first)
            return mapped(states, self.teacher, examples, indices, self.seeds, count)

        yield advance


@dataclasses.dataclass(frozen=True)
class _Stacked:
    """The batches of several networks behind one another, along a new first axis."""

    sources: Sequence[Batches]

    def __getitem__(self, step: int) -> Batch:
        return jax.tree.map(lambda *rows: np.stack(rows), *(own[step] for own in self.sources))


def chunk_ends(start: int, total: int, longest: int, halts: Callable[[int], bool]) -> Iterator[int]:
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
