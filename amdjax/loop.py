"""The loop over the steps of one network, or of several that are trained at once."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax

from amdjax import parallel
from amdjax.advance import Feed, spans
from amdjax.checkpoint import Checkpoints
from amdjax.config import Phase
from amdjax.job import Job
from amdjax.logs import PhaseLog, Profile
from amdjax.optim import learning_rate_schedule
from amdjax.state import TrainState


@dataclasses.dataclass
class Member:
    """One of the networks that are trained at once.

    Attributes:
      phase: what it is.
      checkpoints: of its folder.
      state: of the newest of them, or before the first step.
      start: the steps that are done.
    """

    phase: Phase
    checkpoints: Checkpoints
    state: TrainState
    start: int


def advance_members(
    job: Job,
    members: list[Member],
    feed: Feed,
    total: int,
    evaluate: Callable[[dict], dict[str, float]],
    stop: parallel.StopRequest,
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
        PhaseLog(
            job.workdir / member.phase.name,
            member.phase.name,
            start,
            total,
            per_epoch,
            config.batch_size,
            enabled=parallel.is_writer(),
        )
        for member in members
    ]
    profile = Profile(
        job.workdir / members[0].phase.name / "profile", config.profile and parallel.is_writer()
    )
    examples = feed.examples(job.dataset.train, config.data.device_gib)
    longest = 1 if examples is None else config.log_every_steps
    feeding = feed.streaming(start, total) if examples is None else feed.resident(examples, longest)
    stopped = False

    def halts(step: int) -> bool:
        periods = (per_epoch * config.eval_every_epochs, config.log_every_steps)
        return any(step % period == 0 for period in (*periods, config.checkpoint_every_steps)) or (
            config.profile and step - start in Profile.STOPS
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
        for step in spans(start, total, longest, halts):
            states, metrics = advance(states, first, step)
            parallel.settle(metrics)
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
                    evaluation = evaluate(state.result) if evaluates else None
                    # Logged first: a run that is killed before the checkpoint drops the line and
                    # writes it again, one that is killed behind it would never write it.
                    if evaluation:
                        log.write_evaluation(step, evaluation)
                    member.checkpoints.save(step, state, evaluation)
                for log in logs:
                    log.restart_clock()
            if stopped and step < total:
                break
    for member, state in zip(members, states, strict=True):
        member.state = state
    return not (stopped and step < total)
