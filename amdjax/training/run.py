"""An experiment from top to bottom: teacher, students, evaluation, results."""

import contextlib
import dataclasses
from pathlib import Path

import ml_collections
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.checkpoint import Checkpoints
from amdjax.config import validate
from amdjax.data import Dataset, describe_dataset, load_dataset
from amdjax.experiment import TEACHER, RunSpec, group_seeds, plan_runs
from amdjax.files import check_writable
from amdjax.models import count_parameters
from amdjax.pretrained import load_teacher
from amdjax.training import results
from amdjax.training.loop import RunState, train_loop
from amdjax.training.multi_step import StepRunner
from amdjax.training.preflight import check_settings, check_shapes
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.trainer import Trainer, build_predictor, build_trainer, evaluate
from amdjax.workdir import check_data, check_resumable, write_config, write_run_spec


def run(config: ml_collections.ConfigDict, workdir: Path) -> bool:
    """Trains what a config describes, or resumes it, and leaves the results in `workdir`.

    Args:
      config: see `configs/default.py`.
      workdir: where every run has its folder; `results.json` is written there at the end.

    Returns:
      Whether everything is finished; False if a signal stopped it.

    Raises:
      UserError: on a mistake that the user can correct; what was finished until then is kept.
    """
    validate(config)
    specs = plan_runs(config)
    mesh = distributed.make_mesh()
    distributed.check_batch_size(config.batch_size, mesh)
    check_settings(config, specs)
    data = describe_dataset(config.data)
    check_shapes(config, specs, data.num_classes, data.image_shape)
    for spec in specs:
        check_resumable(config, spec, workdir / spec.name)
    if distributed.is_primary():
        for spec in specs:
            check_writable(workdir / spec.name)
    dataset = load_dataset(config.data, data)
    changes = {check_data(config, workdir / spec.name, dataset.fingerprint) for spec in specs}
    if distributed.is_primary():
        write_config(config, workdir)
        for change in sorted(filter(None, changes)):
            print(change)
        print(results.header(config, dataset, specs, mesh.size), flush=True)
    teachers: dict[str, dict] = {}
    finished: results.Results = {}
    if config.teacher.checkpoint and any(spec.teacher for spec in specs):
        teachers[TEACHER], result = import_teacher(config, dataset, mesh)
        finished[TEACHER] = {config.seed: result}
    trainer: Trainer | None = None
    built_for: RunSpec | None = None
    with distributed.Preemption() as preemption:
        for group in group_seeds(specs, config.seeds_at_once):
            shared = dataclasses.replace(group[0], name="", seed=0)
            if trainer is None or shared != built_for:  # the seeds share the compiled programs
                trainer, built_for = build_trainer(config, shared, dataset, mesh), shared
            teacher = None if shared.teacher is None else teachers[shared.teacher]
            trained = train_runs(trainer, group, workdir, teacher, preemption)
            if trained is None:
                if distributed.is_primary():
                    print(f"stopped during {group[0].name}; repeat the command to resume")
                return False
            for spec, (variables, result) in zip(group, trained, strict=True):
                finished.setdefault(spec.label, {})[spec.seed] = result
                if spec.is_teacher:
                    teachers[spec.name] = variables
    if distributed.is_primary():
        results.write(workdir, config.data.name, finished)
        print(results.table(finished), flush=True)
    return True


def import_teacher(
    config: ml_collections.ConfigDict, dataset: Dataset, mesh: Mesh
) -> tuple[dict, results.RunResult]:
    """Loads the teacher of `config.teacher.checkpoint`, and evaluates it."""
    name, classes = config.teacher.name, dataset.num_classes
    variables = load_teacher(config.teacher.checkpoint, name, classes)
    variables = distributed.replicate(variables, mesh)
    predictor = build_predictor(config, name, classes, {})
    evaluation = evaluate(predictor, variables, dataset, config.batch_size, mesh)
    return variables, results.RunResult(name, count_parameters(variables), {0: evaluation})


def train_runs(
    trainer: Trainer,
    specs: tuple[RunSpec, ...],
    workdir: Path,
    teacher_variables: dict | None,
    preemption: distributed.Preemption,
) -> list[tuple[dict, results.RunResult]] | None:
    """Trains runs that differ only in their seeds, several of them as one program.

    Each resumes from the newest checkpoint of its folder. Those that stand at different steps, as
    after a crash between two checkpoints, are trained one after the other.

    Args:
      trainer: of these runs.
      specs: of the runs.
      workdir: of the experiment.
      teacher_variables: the teacher's; None where no loss reads it.
      preemption: polled after every step.

    Returns:
      For each run the network's variables and its result; None if a signal stopped them.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, cache = trainer.config, None

    def open_run(spec: RunSpec) -> RunState:
        folder = workdir / spec.name
        if distributed.is_primary():
            write_run_spec(config, spec, folder, trainer.dataset.fingerprint)
        checkpoints = stack.enter_context(Checkpoints(folder))
        start, state = checkpoints.latest_step() or 0, trainer.init_state(spec.seed)
        if start:
            state = checkpoints.restore_latest(state)
        return RunState(spec, folder, checkpoints, state, start)

    with contextlib.ExitStack() as stack:
        runs = [open_run(spec) for spec in specs]
        starts = sorted({run.start for run in runs})
        if teacher_variables is not None and config.teacher.cached:
            if starts[0] < trainer.total_steps:
                cache = cache_teacher_outputs(trainer, teacher_variables)
            teacher_variables = None
        for start in starts:
            together = [run for run in runs if run.start == start]
            runner = StepRunner(
                trainer, [run.spec.seed for run in together], teacher_variables, cache
            )
            if not train_loop(trainer, together, runner, preemption):
                return None
        return [
            (
                run.state.eval_variables,
                results.RunResult(
                    run.spec.model,
                    count_parameters(run.state.variables),
                    run.checkpoints.evaluations(),
                ),
            )
            for run in runs
        ]
