"""A run: teacher, students, evaluation, results. Reads from top to bottom."""

import contextlib
from pathlib import Path

import jax
import ml_collections
import numpy as np

from amdjax import distributed
from amdjax.checkpoint import Checkpoints
from amdjax.config import (
    TEACHER,
    RunSpec,
    check_resumable,
    group_seeds,
    plan_runs,
    total_steps,
    validate,
    write_config,
    write_run_spec,
)
from amdjax.data import load_dataset
from amdjax.data.augment import create_augment
from amdjax.data.mixing import create_mix
from amdjax.losses import build_objective
from amdjax.models import init_variables
from amdjax.pretrained import load_teacher
from amdjax.training import results
from amdjax.training.loop import RunState, train_loop
from amdjax.training.multi_step import StepRunner
from amdjax.training.optimizer import create_optimizer
from amdjax.training.preflight import check_shapes, check_writable, dummy_inputs
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_train_step
from amdjax.training.trainer import Trainer


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
    plan = plan_runs(config)
    mesh = distributed.make_mesh()
    distributed.check_batch_size(config.batch_size, mesh)
    for phase in plan:
        check_resumable(config, phase, workdir / phase.name)
    if distributed.is_primary():
        for phase in plan:
            check_writable(workdir / phase.name)
    job = Trainer(config, workdir, load_dataset(config.data), mesh)
    check_shapes(config, plan, job.dataset.num_classes, job.dataset.image_shape)
    if distributed.is_primary():
        write_config(config, workdir)
    teachers: dict[str, dict] = {}
    outcomes: results.Outcomes = {}
    if config.teacher.checkpoint and any(phase.teacher for phase in plan):
        teachers[TEACHER], outcomes[TEACHER] = import_teacher(job)
    with distributed.Preemption() as stop:
        for group in group_seeds(plan, config.seeds_at_once):
            trained = train_runs(job, group, teachers.get(group[0].teacher), stop)
            for phase, (variables, outcome) in zip(group, trained, strict=True):
                if outcome is None:
                    if distributed.is_primary():
                        print(f"stopped in {phase.name}; the same command goes on from here")
                    return False
                outcomes.setdefault(phase.method, {})[phase.seed] = outcome
                if phase.is_teacher:
                    teachers[phase.name] = variables
    if distributed.is_primary():
        results.write(workdir, config.data.name, outcomes)
        print(results.table(outcomes), flush=True)
    return True


def import_teacher(job: Trainer) -> tuple[dict, dict[int, results.Outcome]]:
    """Loads the teacher that the config names, and evaluates it."""
    teacher, seed = job.config.teacher, job.config.seed
    variables = load_teacher(teacher.checkpoint, teacher.name, job.dataset.num_classes)
    variables = distributed.replicate(variables, job.mesh)
    evaluation = job.evaluator(job.model(teacher.name), lambda outputs: outputs)(variables)
    return variables, {seed: results.Outcome(teacher.name, count(variables), {0: evaluation})}


def train_runs(
    job: Trainer, phases: tuple[RunSpec, ...], teacher: dict | None, stop: distributed.Preemption
) -> list[tuple[dict, results.Outcome | None]]:
    """Trains networks that differ in their seeds alone, several as one program.

    Each goes on from the newest checkpoint of its folder. Those that stand at different steps, as
    after a crash between two checkpoints, are trained one after the other.

    Args:
      job: the run.
      phases: what to train.
      teacher: the teacher's variables; None where the phases need none.
      stop: asked behind every step.

    Returns:
      For each phase the network's variables, and how it did; None if it was stopped before the end.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, shared = job.config, phases[0]  # but for its name and seed
    model = job.model(shared.model)
    teacher_model = None if shared.teacher is None else job.model(config.teacher.name)
    batches = {phase.seed: job.train_batches(phase.seed) for phase in phases}
    per_epoch = batches[shared.seed].steps_per_epoch
    total = total_steps(config.epochs, shared.share, config.max_steps, per_epoch)
    objective = build_objective(shared.losses, per_epoch, config.epochs)
    optimizer = create_optimizer(config.optim, per_epoch, config.epochs)
    image_shape = job.dataset.image_shape
    init_own = distributed.jit(
        lambda key: objective.init(key, dummy_inputs(model, teacher_model, image_shape))
    )
    train_step = make_train_step(
        model,
        teacher_model,
        objective,
        create_augment(config.augment)[0],
        optimizer,
        None if shared.is_teacher else create_mix(config.mix, distributed.reverse_batch),
        config.mix.teacher_sees_mixed,
        config.ema_decay,
    )

    def open_run(phase: RunSpec) -> RunState:
        folder, key = job.workdir / phase.name, jax.random.key(np.uint32(phase.seed))
        if distributed.is_primary():
            write_run_spec(config, phase, folder)
        variables = init_variables(model, key, image_shape)
        own = init_own(jax.random.fold_in(key, 1))
        state = distributed.replicate(
            TrainState.create(variables, own, optimizer, config.ema_decay > 0), job.mesh
        )
        checkpoints = stack.enter_context(Checkpoints(folder))
        start = checkpoints.latest_step() or 0
        return RunState(
            phase, checkpoints, checkpoints.restore_latest(state) if start else state, start
        )

    with contextlib.ExitStack() as stack:
        members = [open_run(phase) for phase in phases]
        starts = sorted({member.start for member in members})
        answers = None
        if teacher is not None and config.teacher.cached and starts[0] < total:
            answers = cache_teacher_outputs(
                teacher_model,
                teacher,
                job.dataset.train,
                objective.attention_features,
                config,
                job.mesh,
            )
            teacher = None
        evaluate = job.evaluator(model, objective.predict)
        finished = True
        for start in starts:
            together = [member for member in members if member.start == start]
            feed = StepRunner(
                train_step,
                teacher,
                tuple(batches[member.phase.seed] for member in together),
                answers,
                job.mesh,
                np.asarray([member.phase.seed for member in together], np.uint32),
            )
            finished = finished and train_loop(job, together, feed, total, evaluate, stop)
        return [
            (
                member.state.eval_variables,
                results.Outcome(
                    member.phase.model,
                    count(member.state.variables),
                    member.checkpoints.evaluations(),
                )
                if finished
                else None,
            )
            for member in members
        ]


def count(variables: dict) -> int:
    """Returns a network's number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
