"""An experiment from top to bottom: teacher, students, evaluation, results."""

import contextlib
import dataclasses
from collections.abc import Collection
from pathlib import Path

import ml_collections
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.checkpoint import Checkpoints, best_step
from amdjax.checkpoint_files import read_origin
from amdjax.comparison import trained_teacher_digest
from amdjax.config import check_complete, validate, views_per_image
from amdjax.data import describe_dataset
from amdjax.data.registry import DatasetSpec
from amdjax.data.unknown import check_unknown
from amdjax.errors import warn
from amdjax.experiment import RunSpec, group_seeds, plan_runs
from amdjax.files import check_writable, local_path
from amdjax.imports import apply_imports
from amdjax.methods import TEACHER
from amdjax.predictor import count_prediction_parameters
from amdjax.preemption import Preemption
from amdjax.resuming import check_resumable
from amdjax.run_description import RunDescription, read_run, write_run
from amdjax.run_settings import describe_run
from amdjax.teacher_outputs.stored import StoredOutputs
from amdjax.training import results
from amdjax.training.header import print_plan
from amdjax.training.initial_state import InitialState
from amdjax.training.inputs import Inputs, load_inputs
from amdjax.training.loop import RunState, train_loop
from amdjax.training.metrics_file import METRICS_FILE, training_seconds
from amdjax.training.preflight import check_same_settings, check_settings, check_shapes
from amdjax.training.preflight_warnings import started_students_warnings
from amdjax.training.results_file import write_results
from amdjax.training.results_table import format_results
from amdjax.training.step_runner import StepRunner
from amdjax.training.teacher_cache import TeacherCache, is_cacheable
from amdjax.training.teacher_evaluation import evaluate_given_teacher
from amdjax.training.trainer import Trainer, build_trainer
from amdjax.workdir import write_config
from amdjax.workdir_lock import WorkdirLock


def run(
    config: ml_collections.ConfigDict, workdir: Path | str, overridden: Collection[str] = ()
) -> bool:
    """Trains what a config describes, or resumes it, and leaves the results in `workdir`.

    Args:
      config: see `configs/default.py`.
      workdir: where every run has its folder; `results.json` is written there at the end.
      overridden: names of settings, such as "losses.kd.temperature", that the user has changed;
        those without an effect are printed, see `ignored_settings`.

    Returns:
      Whether everything is finished; False if a signal stopped it.

    Raises:
      UserError: on a mistake that the user can correct; what was finished until then is kept.
    """
    workdir = local_path(str(workdir), "workdir")
    specs, data, mesh = _plan(config)
    with WorkdirLock(workdir) as lock:
        for spec in specs:
            check_resumable(config, spec, workdir / spec.name)
        if distributed.is_primary():
            for spec in specs:
                check_writable(workdir / spec.name)
        inputs = load_inputs(config, specs, data, workdir)
        if distributed.is_primary():
            write_config(config, workdir)
            print_plan(config, specs, inputs, overridden, mesh.size)
        return _train_all(config, specs, inputs, workdir, mesh, lock)


def prepare(
    config: ml_collections.ConfigDict, workdir: Path, overridden: Collection[str] = ()
) -> None:
    """Prepares the data of a config and checks all that `run` checks; trains nothing.

    Args:
      config: see `configs/default.py`.
      workdir: that `run` is to be called with; it is read if it is there, and never written.
      overridden: as for `run`.

    Raises:
      UserError: on a mistake that the user can correct.
    """
    specs, data, mesh = _plan(config)
    for spec in specs:
        check_resumable(config, spec, workdir / spec.name)
    inputs = load_inputs(config, specs, data, workdir)
    if distributed.is_primary():
        print_plan(config, specs, inputs, overridden, mesh.size)
        print("the data are prepared and the settings are valid; nothing was trained", flush=True)


def _plan(config: ml_collections.ConfigDict) -> tuple[list[RunSpec], DatasetSpec, Mesh]:
    """Checks what can be checked before the data are prepared."""
    check_complete(config)
    check_same_settings(config)
    apply_imports(config)
    validate(config)
    specs = plan_runs(config)
    distributed.initialize()
    mesh = distributed.make_mesh()
    distributed.check_batch_size(config.batch_size, mesh, config.accumulate)
    check_settings(config, specs)
    data = describe_dataset(config.data)
    check_unknown(config.data)
    check_shapes(config, specs, data.num_classes, data.image_shape)
    return specs, data, mesh


def _train_all(
    config: ml_collections.ConfigDict,
    specs: list[RunSpec],
    inputs: Inputs,
    workdir: Path,
    mesh: Mesh,
    lock: WorkdirLock,
) -> bool:
    """Trains the runs one after the other, and returns whether all are finished."""
    teachers: dict[str, dict] = {}
    teacher_cache = TeacherCache()
    finished: results.Results = {}
    if inputs.teacher is not None:
        teachers[TEACHER], result = evaluate_given_teacher(
            config, inputs.teacher, inputs.dataset, mesh
        )
        finished[TEACHER] = {config.seed: result}
    trainer: Trainer | None = None
    built_for: RunSpec | None = None
    with Preemption(lock.check) as preemption:
        for group in group_seeds(specs, config.seeds_at_once):
            if preemption.requested():  # since the last step of the run before
                if distributed.is_primary():
                    print(f"stopped before {group[0].name}; repeat the command to resume")
                return False
            shared = dataclasses.replace(group[0], name="", seed=0)
            if trainer is None or shared != built_for:  # the seeds share the compiled programs
                trainer = build_trainer(config, shared, inputs.data_of(shared), mesh)
                built_for = shared
            if shared.is_teacher and distributed.is_primary():
                total = trainer.total_steps
                warn(*started_students_warnings(workdir, group[0], specs, total))
            teacher = None
            if shared.teacher is not None and inputs.teacher_outputs is None:
                teacher = teachers[shared.teacher]
            trained = _train_runs(
                trainer, group, inputs, workdir, teacher, teacher_cache, preemption
            )
            if trained is None:
                if distributed.is_primary():
                    print(f"stopped during {group[0].name}; repeat the command to resume")
                return False
            for spec, (variables, result) in zip(group, trained, strict=True):
                finished.setdefault(spec.label, {})[spec.seed] = result
                if spec.is_teacher:
                    teachers[spec.name] = variables
    lock.check()
    if distributed.is_primary():
        write_results(workdir, inputs.dataset.fingerprint, finished)
        print(format_results(finished), flush=True)
    return True


def _train_runs(
    trainer: Trainer,
    specs: tuple[RunSpec, ...],
    inputs: Inputs,
    workdir: Path,
    teacher_variables: dict | None,
    teacher_cache: TeacherCache,
    preemption: Preemption,
) -> list[tuple[dict, results.RunResult]] | None:
    """Trains runs that differ only in their seeds, several of them as one program.

    Each resumes from the newest checkpoint of its folder. Those that have done different numbers
    of steps, as after a crash between two checkpoints, are trained one after the other.

    Args:
      trainer: of these runs.
      specs: of the runs.
      inputs: of the experiment.
      workdir: of the experiment.
      teacher_variables: the teacher's; None where no loss reads it.
      teacher_cache: of the experiment.
      preemption: polled after every step, and after every batch of the teacher cache.

    Returns:
      For each run the network's variables and its result; None if a signal stopped them.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, data, teacher_outputs = trainer.config, trainer.dataset.fingerprint, None
    with contextlib.ExitStack() as stack:
        runs = []
        for spec in specs:
            description = describe_run(config, spec, data, inputs.teacher_checkpoints)
            checkpoints = Checkpoints(workdir / spec.name, description.to_dict())
            stack.enter_context(checkpoints)
            initial = inputs.initial_of(spec)
            runs.append(_open_run(trainer, spec, workdir, description, checkpoints, initial))
        starts = sorted({run.start for run in runs})
        if isinstance(trainer.teacher, StoredOutputs):
            teacher_outputs = trainer.teacher.rows(views_per_image(config))
        elif teacher_variables is not None and is_cacheable(trainer):
            if starts[0] < trainer.total_steps:
                teacher_outputs = teacher_cache.outputs(
                    trainer, specs[0].teacher, teacher_variables, preemption.requested
                )
                if teacher_outputs is None:
                    return None
            teacher_variables = None
        for start in starts:
            together = [run for run in runs if run.start == start]
            seeds = [run.spec.seed for run in together]
            runner = StepRunner(trainer, seeds, teacher_variables, teacher_outputs)
            if not train_loop(trainer, together, runner, preemption):
                return None
        return [(run.state.eval_variables, _result_of(trainer, run, workdir)) for run in runs]


def _open_run(
    trainer: Trainer,
    spec: RunSpec,
    workdir: Path,
    description: RunDescription,
    checkpoints: Checkpoints,
    initial: InitialState | None,
) -> RunState:
    """Returns a run in the state of its newest checkpoint, or before its first step.

    Args:
      trainer: of the run.
      spec: of the run.
      workdir: of the experiment.
      description: of the run, which is written to its folder unless it is finished.
      checkpoints: in that folder.
      initial: what it starts from; None: random variables.
    """
    folder = workdir / spec.name
    # A process may not see the newest checkpoint yet on a shared disk.
    start = distributed.broadcast_from_primary(checkpoints.latest_step() or 0)
    if start >= trainer.total_steps:
        # What was recorded is kept: the images, for example, may have changed since.
        description = read_run(folder)
    elif distributed.is_primary():
        write_run(description, folder)
    if start:
        checkpoints.wait_for(start)
        # Into shapes: a run that is resumed does not compile how its initial weights are drawn.
        state = checkpoints.restore_latest(trainer.state_shapes)
        partial_sums = checkpoints.restore_partial_sums()
    else:
        state, partial_sums = trainer.init_state(spec.seed, initial), {}
    return RunState(spec, folder, description, checkpoints, state, start, partial_sums)


def _result_of(trainer: Trainer, run: RunState, workdir: Path) -> results.RunResult:
    """Returns the result of a finished run, with its evaluations on the test split."""
    return results.RunResult(
        run.spec.model,
        count_prediction_parameters(trainer.prediction_variables(run.state)),
        _test_evaluations(trainer, run),
        results.origin_of(
            run.description,
            read_origin(run.folder),
            training_seconds(run.folder / METRICS_FILE, trainer.config.batch_size),
            trained_teacher_digest(workdir, run.spec.teacher),
        ),
    )


def _test_evaluations(trainer: Trainer, run: RunState) -> dict[int, dict[str, float]]:
    """Returns the evaluations of a finished run on the test split, by step.

    With a validation split these are made now: of the last step and of the one that is best there.
    """
    evaluations, dataset = dict(run.checkpoints.evaluations()), trainer.dataset
    last = run.checkpoints.latest_step()
    assert last is not None, "a finished run has a checkpoint"
    # All processes evaluate what the first one finds to be missing: on a shared disk another may
    # not see its files yet.
    if distributed.broadcast_from_primary(last not in evaluations):
        # The run was stopped there, and `max_steps` is lower now.
        evaluations[last] = trainer.evaluate(run.state, dataset.selection)
    if dataset.validation is None:
        return evaluations
    tested = {}
    best = best_step(evaluations) if distributed.is_primary() else last
    for step in sorted({distributed.broadcast_from_primary(best), last}):
        state = run.state if step == last else run.checkpoints.restore(step, run.state)
        tested[step] = trainer.evaluate(state, dataset.test)
        if distributed.is_primary():
            tested[step][results.VALIDATION_ACCURACY] = evaluations[step]["accuracy"]
    return tested
