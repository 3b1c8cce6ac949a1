"""The loop over the steps of one network, or of several that are trained at once."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax

from amdjax import distributed
from amdjax.checkpoint import Checkpoints
from amdjax.config import RunSpec
from amdjax.training.metric_writer import Profiler, RunLogger
from amdjax.training.multi_step import StepRunner, chunk_ends
from amdjax.training.optimizer import learning_rate_schedule
from amdjax.training.train_state import TrainState
from amdjax.training.trainer import Trainer


@dataclasses.dataclass
class RunState:
    """One of the networks that are trained at once.

    Attributes:
      phase: what it is.
      checkpoints: of its folder.
      state: of the newest of them, or before the first step.
      start: the steps that are done.
    """

    phase: RunSpec
    checkpoints: Checkpoints
    state: TrainState
    start: int


def train_loop(
    job: Trainer,
    members: list[RunState],
    feed: StepRunner,
    total: int,
    evaluate: Callable[[dict], dict[str, float]],
    stop: distributed.Preemption,
) -> bool:
    """Trains networks that stand at the same step, and logs, evaluates and saves them.

    Args:
      job: the run.
      members: the networks; their states become those behind the last step.
      feed: what they are trained with.
      total: the step at which they are finished.
      evaluate: a network's variables -> its values.
      stop: asked behind every step.

    Returns:
      Whether they came to the end; False if they were told to stop.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, start = job.config, members[0].start
    per_epoch = feed.batches[0].steps_per_epoch
    learning_rate = learning_rate_schedule(config.optim, per_epoch, config.epochs)
    logs = [
        RunLogger(
            job.workdir / member.phase.name,
            member.phase.name,
            start,
            total,
            per_epoch,
            config.batch_size,
            enabled=distributed.is_primary(),
        )
        for member in members
    ]
    profile = Profiler(
        job.workdir / members[0].phase.name / "profile", config.profile and distributed.is_primary()
    )
    examples = feed.examples(job.dataset.train, config.data.device_gib)
    longest = 1 if examples is None else config.log_every_steps
    feeding = feed.streaming(start, total) if examples is None else feed.resident(examples, longest)
    stopped = False

    def halts(step: int) -> bool:
        periods = (per_epoch * config.eval_every_epochs, config.log_every_steps)
        return any(step % period == 0 for period in (*periods, config.checkpoint_every_steps)) or (
            config.profile and step - start in Profiler.STOPS
        )

    def note(first: int, last: int, metrics: tuple[dict[str, jax.Array], ...]) -> None:
        for log, values in zip(logs, jax.device_get(metrics), strict=True):
            log.train_steps(first, last, values)

    with contextlib.ExitStack() as stack:
        for log in logs:
            stack.enter_context(log)
        stack.enter_context(profile)
        advance = stack.enter_context(feeding)
        states, pending, first = tuple(member.state for member in members), None, start
        for step in chunk_ends(start, total, longest, halts):
            states, metrics = advance(states, first, step)
            distributed.block_on_cpu(metrics)
            profile.reached(step - start)
            # The steps before are looked at while these compute.
            if pending is not None:
                note(*pending)
            pending, first = (first, step, metrics), step
            stopped = stop.reached()
            evaluates = step % (per_epoch * config.eval_every_epochs) == 0 or step == total
            saves = evaluates or stopped or step % config.checkpoint_every_steps == 0
            if saves or step % config.log_every_steps == 0:
                note(*pending)
                pending = None
                for log in logs:
                    log.write_train(step, float(learning_rate(step - 1)))
            if saves:
                for member, log, state in zip(members, logs, states, strict=True):
                    evaluation = evaluate(state.eval_variables) if evaluates else None
                    # Logged first: a run that is killed before the checkpoint drops the line and
                    # writes it again, one that is killed behind it would never write it.
                    if evaluation:
                        log.write_evaluation(step, evaluation)
                    member.checkpoints.save(step, state, evaluation)
                for log in logs:
                    log.reset_timer()
            if stopped and step < total:
                break
    for member, state in zip(members, states, strict=True):
        member.state = state
    return not (stopped and step < total)
