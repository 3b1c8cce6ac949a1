"""A run: teacher, students, evaluation, results. Reads from top to bottom."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from amdjax import parallel, results
from amdjax.advance import Feed, spans
from amdjax.answers import ask_teacher
from amdjax.checkpoint import Checkpoints
from amdjax.checks import check_shapes, check_writable, example_inputs
from amdjax.config import (
    TEACHER,
    Phase,
    check_recipe,
    compute_dtype,
    phases,
    total_steps,
    validate,
    write_config,
    write_recipe,
)
from amdjax.data import Dataset, EvalBatches, TrainBatches, load_dataset, prefetch
from amdjax.data.augment import create_augment
from amdjax.data.mix import create_mix
from amdjax.logs import PhaseLog, Profile
from amdjax.losses import objective
from amdjax.metrics import EvalMetrics
from amdjax.models import Outputs, create_model, init_variables
from amdjax.optim import create_optimizer, learning_rate_schedule
from amdjax.state import TrainState
from amdjax.step import make_eval_step, make_train_step
from amdjax.teacher import load_teacher


@dataclasses.dataclass(frozen=True)
class Run:
    """What all phases of a run share."""

    config: ml_collections.ConfigDict
    workdir: Path
    dataset: Dataset
    mesh: Mesh

    def model(self, name: str) -> nn.Module:
        """Makes a network for this run's data, type and devices."""
        axis = parallel.BATCH_AXIS if self.config.sync_batch_norm else None
        return create_model(name, self.dataset.num_classes, compute_dtype(self.config), axis)


def run(config: ml_collections.ConfigDict, workdir: Path) -> bool:
    """Trains what a config asks for, or goes on with it, and leaves the results in `workdir`.

    Args:
      config: see `configs/default.py`.
      workdir: where every phase has its folder; `results.json` is written there at the end.

    Returns:
      Whether it came to the end; False if it was told to stop.

    Raises:
      UserError: on what the user can mend; what was finished until then is kept.
    """
    validate(config)
    plan = phases(config)
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.batch_size, mesh)
    for phase in plan:
        check_recipe(config, phase, workdir / phase.name)
    if parallel.is_writer():
        for phase in plan:
            check_writable(workdir / phase.name)
    job = Run(config, workdir, load_dataset(config.data), mesh)
    check_shapes(config, plan, job.dataset.num_classes, job.dataset.image_shape)
    if parallel.is_writer():
        write_config(config, workdir)
    teachers: dict[str, dict] = {}
    outcomes: results.Outcomes = {}
    if config.teacher.checkpoint and any(phase.teacher for phase in plan):
        teachers[TEACHER], outcomes[TEACHER] = import_teacher(job)
    with parallel.StopRequest() as stop:
        for phase in plan:
            variables, outcome = train_phase(job, phase, teachers.get(phase.teacher), stop)
            if outcome is None:
                if parallel.is_writer():
                    print(f"stopped in {phase.name}; the same command goes on from here")
                return False
            outcomes.setdefault(phase.method, {})[phase.seed] = outcome
            if phase.is_teacher:
                teachers[phase.name] = variables
    if parallel.is_writer():
        results.write(workdir, config.data.name, outcomes)
        print(results.table(outcomes), flush=True)
    return True


def import_teacher(job: Run) -> tuple[dict, dict[int, results.Outcome]]:
    """Loads the teacher that the config names, and evaluates it."""
    teacher, seed = job.config.teacher, job.config.seed
    variables = load_teacher(teacher.checkpoint, teacher.name, job.dataset.num_classes)
    variables = parallel.replicate(variables, job.mesh)
    evaluation = make_evaluate(job, job.model(teacher.name), lambda outputs: outputs)(variables)
    return variables, {seed: results.Outcome(teacher.name, count(variables), {0: evaluation})}


def train_phase(
    job: Run, phase: Phase, teacher: dict | None, stop: parallel.StopRequest
) -> tuple[dict, results.Outcome | None]:
    """Trains one network, from the newest checkpoint of its folder where there is one.

    Args:
      job: the run.
      phase: what to train.
      teacher: the teacher's variables; None where the phase needs none.
      stop: asked behind every step.

    Returns:
      The network's variables, and how it did; None if it was stopped before the end.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, folder = job.config, job.workdir / phase.name
    if parallel.is_writer():
        write_recipe(config, phase, folder)
    model = job.model(phase.model)
    teacher_model = None if phase.teacher is None else job.model(config.teacher.name)
    batches = TrainBatches(
        job.dataset.train,
        config.batch_size,
        phase.seed,
        parallel.process_index(),
        parallel.process_count(),
    )
    per_epoch = batches.steps_per_epoch
    total = total_steps(config.epochs, phase.share, config.max_steps, per_epoch)
    seed, image_shape = np.uint32(phase.seed), job.dataset.image_shape
    goal = objective(phase.losses, per_epoch, config.epochs)
    optimizer = create_optimizer(config.optim, per_epoch, config.epochs)
    learning_rate = learning_rate_schedule(config.optim, per_epoch, config.epochs)
    variables = init_variables(model, jax.random.key(seed), image_shape)
    own = jax.jit(lambda key: goal.init(key, example_inputs(model, teacher_model, image_shape)))(
        jax.random.fold_in(jax.random.key(seed), 1)
    )
    state = parallel.replicate(
        TrainState.create(variables, own, optimizer, config.average_decay > 0), job.mesh
    )
    evaluate = make_evaluate(job, model, goal.predict)
    train_step = make_train_step(
        model,
        teacher_model,
        goal,
        create_augment(config.augment)[0],
        optimizer,
        None if phase.is_teacher else create_mix(config.mix, parallel.reverse),
        config.mix.teacher_sees_mixed,
        config.average_decay,
    )
    checkpoints = Checkpoints(folder)
    start = checkpoints.latest_step() or 0
    if start:
        state = checkpoints.restore_latest(state)
    log = PhaseLog(
        folder,
        phase.name,
        start,
        total,
        per_epoch,
        config.batch_size,
        enabled=parallel.is_writer(),
    )
    answers = None
    if teacher is not None and config.teacher.cached and start < total:
        answers = ask_teacher(
            teacher_model, teacher, job.dataset.train, goal.map_places, config, job.mesh
        )
        teacher = None
    feed = Feed(train_step, teacher, batches, answers, job.mesh, seed)
    examples = feed.examples(job.dataset.train, config.data.device_gib)
    longest = 1 if examples is None else config.log_every_steps
    feeding = feed.streaming(start, total) if examples is None else feed.resident(examples, longest)
    stopped = False
    profile = Profile(folder / "profile", config.profile and parallel.is_writer())

    def halts(step: int) -> bool:
        periods = (per_epoch * config.eval_every_epochs, config.log_every_steps)
        return any(step % period == 0 for period in (*periods, config.checkpoint_every_steps)) or (
            config.profile and step - start in Profile.STOPS
        )

    with log, checkpoints, profile, feeding as advance:
        pending, first = None, start
        for step in spans(start, total, longest, halts):
            state, metrics = advance(state, first, step)
            parallel.settle(metrics)
            profile.reached(step - start)
            # The steps before are looked at while these compute.
            if pending is not None:
                log.train_steps(*jax.device_get(pending))
            pending, first = (first, step, metrics), step
            stopped = stop.reached()
            evaluates = step % (per_epoch * config.eval_every_epochs) == 0 or step == total
            saves = evaluates or stopped or step % config.checkpoint_every_steps == 0
            if saves or step % config.log_every_steps == 0:
                log.train_steps(*jax.device_get(pending))
                pending = None
                log.write_train(step, float(learning_rate(step - 1)))
            if saves:
                evaluation = evaluate(state.result) if evaluates else None
                # Logged first: a run that is killed before the checkpoint drops the line and
                # writes it again, one that is killed behind it would never write it.
                if evaluation:
                    log.write_evaluation(step, evaluation)
                checkpoints.save(step, state, evaluation)
                log.restart_clock()
            if stopped and step < total:
                return state.result, None
        return state.result, results.Outcome(
            phase.model, count(state.variables), checkpoints.evaluations()
        )


def make_evaluate(
    job: Run, model: nn.Module, predict: Callable[[Outputs], Outputs]
) -> Callable[[dict], dict[str, float]]:
    """Makes a function from a network's variables to its values on the whole test split."""
    split = job.dataset.test
    batches = EvalBatches(
        split, job.config.batch_size, parallel.process_index(), parallel.process_count()
    )
    normalize = create_augment(job.config.augment)[1]
    eval_step = parallel.map_step(
        make_eval_step(model, normalize, predict), job.mesh, batch_argument=1
    )

    def evaluate(variables: dict) -> dict[str, float]:
        total = EvalMetrics.empty()
        for batch in prefetch(batches, 0, len(batches)):
            metrics = eval_step(variables, parallel.shard(batch, job.mesh))
            parallel.settle(metrics)
            total = total.merge(metrics)
        if total.accuracy.count != len(split):
            raise AssertionError(f"evaluated {total.accuracy.count} of {len(split)} examples")
        return {name: float(value) for name, value in total.compute().items()}

    return evaluate


def count(variables: dict) -> int:
    """Returns a network's number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
