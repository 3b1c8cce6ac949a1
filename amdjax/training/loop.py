"""The train loop: steps, logs, evaluations and checkpoints of one run, or of several together."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from amdjax import distributed
from amdjax.checkpoint import Checkpoints
from amdjax.experiment import RunSpec
from amdjax.preemption import Preemption
from amdjax.run_description import RunDescription
from amdjax.training.profiler import Profiler
from amdjax.training.run_logger import RunLogger
from amdjax.training.step_runner import StepRunner
from amdjax.training.trackers import RunTrackers
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer


@dataclasses.dataclass
class RunState:
    """A run in progress.

    Attributes:
      spec: of the run.
      folder: of the run.
      description: of the run.
      checkpoints: in that folder.
      state: of the newest checkpoint, or before the first step.
      start: the steps that are done.
      partial_sums: of the log line that was begun at that checkpoint, see
        `RunLogger.partial_sums`.
    """

    spec: RunSpec
    folder: Path
    description: RunDescription
    checkpoints: Checkpoints
    state: TrainState
    start: int
    partial_sums: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class HostSchedule:
    """The steps after which the host logs, evaluates and saves.

    Attributes:
      start: steps done before.
      total: the step after which the run is finished.
      eval_every: steps between evaluations; the last step is evaluated too.
      log_every: steps between log lines.
      save_every: steps between checkpoints; one is saved at each evaluation too.
      profile: whether a trace is recorded, which starts and ends between two steps.
    """

    start: int
    total: int
    eval_every: int
    log_every: int
    save_every: int
    profile: bool = False

    @classmethod
    def create(
        cls, config: ml_collections.ConfigDict, start: int, total: int, steps_per_epoch: int
    ) -> "HostSchedule":
        """Returns the schedule of a config."""
        return cls(
            start,
            total,
            eval_every=config.eval_every_epochs * steps_per_epoch,
            log_every=config.log_every_steps,
            save_every=config.checkpoint_every_steps,
            profile=config.profile,
        )

    def evaluates(self, step: int) -> bool:
        """Returns whether the network is evaluated after a step."""
        return step % self.eval_every == 0 or step == self.total

    def saves(self, step: int) -> bool:
        """Returns whether a checkpoint is saved after a step."""
        return step % self.save_every == 0 or self.evaluates(step)

    def logs(self, step: int) -> bool:
        """Returns whether a log line is written after a step."""
        return step % self.log_every == 0 or self.saves(step)

    def needs_host(self, step: int) -> bool:
        """Returns whether the host has something to do after a step."""
        return self.logs(step) or (self.profile and step - self.start in Profiler.STOPS)

    def chunk_ends(self, max_chunk: int) -> Iterator[int]:
        """Yields the last step of each chunk of steps that can run as one program.

        Args:
          max_chunk: largest number of steps in a chunk.
        """
        last = self.start
        for step in range(self.start + 1, self.total + 1):
            if step - last == max_chunk or step == self.total or self.needs_host(step):
                yield step
                last = step


def train_loop(
    trainer: Trainer,
    runs: list[RunState],
    runner: StepRunner,
    preemption: Preemption,
) -> bool:
    """Trains runs that have done the same number of steps, and logs, evaluates and saves them.

    Args:
      trainer: of the runs.
      runs: their states become those after the last step.
      runner: of their steps.
      preemption: polled after every step.

    Returns:
      Whether the runs are finished; False if a signal stopped them. Of runs that have no steps
      left, no file is opened.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, start, total = trainer.config, runs[0].start, trainer.total_steps
    if start >= total:
        return True
    schedule = HostSchedule.create(config, start, total, trainer.steps_per_epoch)
    loggers: list[RunLogger] = []
    profiler = Profiler(
        runs[0].folder / "profile", enabled=config.profile and distributed.is_primary()
    )

    def start_clocks() -> None:
        trainer.learning_rate(start)  # compiled now, and not in the time of the first line
        for logger in loggers:
            logger.start_clock()

    def log_metrics(first: int, last: int, metrics: tuple[dict[str, jax.Array], ...]) -> None:
        for logger, values in zip(loggers, jax.device_get(metrics), strict=True):
            logger.add(first, last, values)

    stopped = False
    saved_at = time.monotonic()
    with contextlib.ExitStack() as stack:
        loggers.extend(stack.enter_context(_open_logger(trainer, run)) for run in runs)
        stack.enter_context(profiler)
        run_steps = stack.enter_context(runner.open(start, total, start_clocks))
        states, unfetched, first = tuple(run.state for run in runs), None, start
        for step in schedule.chunk_ends(runner.max_chunk):
            states, metrics = run_steps(states, first, step)
            distributed.block_on_cpu(metrics)
            profiler.on_step(step - start, metrics)
            # The metrics of the chunk before are fetched while this one computes.
            if unfetched is not None:
                log_metrics(*unfetched)
            unfetched, first = (first, step, metrics), step
            stopped = preemption.requested() and step < total
            logs = schedule.logs(step)
            if logs or stopped:
                log_metrics(*unfetched)
                unfetched = None
            if logs:
                rate = float(trainer.learning_rate(step - 1))
                for logger in loggers:
                    logger.write_train(step, rate)
            saves = schedule.saves(step) or stopped
            if logs and not saves and config.checkpoint_every_minutes:
                due = time.monotonic() - saved_at >= 60 * config.checkpoint_every_minutes
                saves = distributed.broadcast_from_primary(due)
            if saves:
                evaluates = schedule.evaluates(step)
                for run, logger, state in zip(runs, loggers, states, strict=True):
                    _save(trainer, run, logger, step, state, evaluates)
                for logger in loggers:
                    logger.reset()
                saved_at = time.monotonic()
            if stopped:
                break
    for run, state in zip(runs, states, strict=True):
        run.state = state
    return not stopped


def _save(
    trainer: Trainer,
    run: RunState,
    logger: RunLogger,
    step: int,
    state: TrainState,
    evaluates: bool,
) -> None:
    """Saves a checkpoint of a run, with an evaluation where one is due."""
    evaluation = None
    if evaluates:
        evaluation = trainer.evaluate(state, trainer.dataset.selection)
        # Logged before the checkpoint: a run that is killed between the two drops the line and
        # writes it again; the other way round it would be lost.
        logger.write_evaluation(step, evaluation, trainer.dataset.selection_split)
    run.checkpoints.save(step, state, evaluation, logger.partial_sums())


def _open_logger(trainer: Trainer, run: RunState) -> RunLogger:
    """Opens the files and the trackers of a run; only the first process has any."""
    trackers = None
    if distributed.is_primary():
        settings = {"method": run.description.method, **run.description.settings}
        trackers = RunTrackers(trainer.config.trackers, run.spec.name, run.folder, settings)
    return RunLogger(
        run.folder,
        name=run.spec.name,
        start=run.start,
        total=trainer.total_steps,
        steps_per_epoch=trainer.steps_per_epoch,
        batch_size=trainer.config.batch_size,
        partial_sums=run.partial_sums,
        enabled=distributed.is_primary(),
        trackers=trackers,
    )
