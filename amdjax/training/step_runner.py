"""Execution of train steps: batch by batch, or many steps as one program on the device."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from amdjax import cpu, distributed
from amdjax.data import Batch, Batches, InMemorySource, JoinedBatches, prefetch
from amdjax.models import Outputs
from amdjax.training.step_programs import ExampleRows
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer

# (states, first, last) -> the states after step `last`, and for each of them the metrics of steps
# first + 1 to last: arrays [n] with n at least last - first, or scalars of a single step.
States = tuple[TrainState, ...]
RunSteps = Callable[[States, int, int], tuple[States, tuple[dict[str, jax.Array], ...]]]


def device_memory_left(trainer: Trainer, teacher_outputs: Outputs | None = None) -> float:
    """Returns how much of `config.data.device_gib` the training examples leave free, in GiB.

    Negative where they are not kept on the devices: they do not fit, or are not in the host's
    memory, or the devices are CPUs, where XLA computes convolutions in a loop fifty times as
    slowly.

    Args:
      trainer: of the networks.
      teacher_outputs: as for `StepRunner`.
    """
    source = trainer.dataset.train
    if not distributed.on_accelerator() or not isinstance(source, InMemorySource):
        return -math.inf
    arrays = jax.tree.leaves((source.arrays(), _extra_rows(trainer, teacher_outputs)))
    return trainer.config.data.device_gib - sum(array.nbytes for array in arrays) / 2**30


def _extra_rows(trainer: Trainer, teacher_outputs: Outputs | None) -> dict[str, Any]:
    """Returns what an example has besides image and label, with a row for each training image."""
    rows: dict[str, Any] = {}
    if teacher_outputs is not None:
        rows["teacher"] = teacher_outputs
    if trainer.objective.needs_example_index:
        rows["index"] = np.arange(len(trainer.dataset.train), dtype=np.int32)
    return rows


class StepRunner:
    """Runs the train steps of one network, or of several as one program.

    On an accelerator a training set that fits into its memory is kept there, and up to
    `config.log_every_steps` steps are one program; else each batch is sent to the devices.

    Attributes:
      max_chunk: the most steps that run as one program.
    """

    def __init__(
        self,
        trainer: Trainer,
        seeds: Sequence[int],
        teacher_variables: dict | None = None,
        teacher_outputs: Outputs | None = None,
        on_device: bool | None = None,
    ):
        """Chooses between the two ways.

        Args:
          trainer: of the networks.
          seeds: of each network's batches and random numbers.
          teacher_variables: replicated; None where the step has no forward pass of the teacher.
          teacher_outputs: from `cache_teacher_outputs` or `StoredOutputs.rows`, where there are
            outputs for each training image.
          on_device: whether to keep the examples on the devices; None: where that is faster.
        """
        self._trainer, self._mesh = trainer, trainer.mesh
        self._seeds = np.asarray(seeds, np.uint32)
        self._teacher_variables = teacher_variables
        self._rows = _extra_rows(trainer, teacher_outputs)
        self._batches = [trainer.train_batches(seed) for seed in seeds]
        if on_device is None:
            on_device = device_memory_left(trainer, teacher_outputs) >= 0
        self._on_device = on_device
        self.max_chunk = 1
        if self._on_device:  # memory for so many steps is needed, and no chunk is longer
            self.max_chunk = min(trainer.config.log_every_steps, trainer.total_steps)

    def open(
        self, start: int, total: int, on_compiled: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[RunSteps]:
        """Returns a context manager that yields the function `RunSteps`.

        Args:
          start: steps done before.
          total: the step after which the run is finished.
          on_compiled: called when the first steps have been compiled, before they run.
        """
        if self._on_device:
            return self._keep_on_device(on_compiled)
        return self._stream(start, total, on_compiled)

    @contextlib.contextmanager
    def _stream(
        self, start: int, total: int, on_compiled: Callable[[], None]
    ) -> Iterator[RunSteps]:
        call = self._compiling(self._trainer.compiled_step(len(self._seeds)), on_compiled)
        batches: list[Batches] = list(self._batches)
        if self._rows:
            batches = [JoinedBatches(of_one_seed, self._rows) for of_one_seed in self._batches]
        several = len(batches) > 1
        source = _StackedBatches(batches) if several else batches[0]
        with contextlib.closing(prefetch(source, start, total)) as stream:

            def run_steps(states: States, first: int, last: int) -> tuple:
                batch = distributed.shard(next(stream), self._mesh, batch_axis=int(several))
                return call(states, batch)

            yield run_steps

    @contextlib.contextmanager
    def _keep_on_device(self, on_compiled: Callable[[], None]) -> Iterator[RunSteps]:
        # The same examples in the same order with the same random numbers as `_stream`.
        step = self._trainer.compiled_step(len(self._seeds), on_device=True)
        call = self._compiling(step, on_compiled)
        source = self._trainer.dataset.train
        assert isinstance(source, InMemorySource), "a streamed source is never kept on the device"
        images, labels = source.arrays()
        examples = {"image": images, "label": labels, **self._rows}
        # As arrays: they may be `LazyRows`.
        examples = jax.tree.map(lambda x: ExampleRows.create(np.asarray(x)), examples)
        examples = distributed.replicate(examples, self._mesh, compare=False)

        def run_steps(states: States, first: int, last: int) -> tuple:
            rows = [
                [batches.indices(step) for step in range(first, last)] for batches in self._batches
            ]
            # Always the same shape, so that the program is compiled once.
            missing = self.max_chunk - (last - first)
            indices = np.pad(np.asarray(rows, np.int32), ((0, 0), (0, missing), (0, 0)))
            several = len(rows) > 1
            indices = distributed.shard(
                indices if several else indices[0], self._mesh, batch_axis=1 + several
            )
            return call(states, examples, indices, count=np.int32(last - first))

        yield run_steps

    def _compiling(self, step: Any, on_compiled: Callable[[], None]) -> Callable[..., tuple]:
        """Returns a function that calls the step with tuples of states, and first compiles it.

        Args:
          step: a compiled train step, or several as one program.
          on_compiled: called once, before the first steps are computed.
        """
        several, compiled = len(self._seeds) > 1, False

        def call(states: States, *data: Any, count: np.int32 | None = None) -> tuple:
            nonlocal compiled
            arguments = (
                states if several else states[0],
                self._teacher_variables,
                *data,
                self._seeds if several else self._seeds[0],
                *(() if count is None else (count,)),
            )
            if not compiled:
                cpu.tune_malloc_for(step.lower(*arguments).compile())
                on_compiled()
                compiled = True
            state, metrics = step(*arguments)  # the program that was compiled above
            return (state, metrics) if several else ((state,), (metrics,))

        return call


class _StackedBatches:
    """The batches of several networks, stacked along a new first axis."""

    def __init__(self, sources: Sequence[Batches]):
        self._sources = sources

    def __getitem__(self, step: int) -> Batch:
        batches = [source[step] for source in self._sources]
        return jax.tree.map(lambda *rows: np.stack(rows), *batches)
