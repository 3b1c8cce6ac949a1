"""An experiment from top to bottom: teacher, students, evaluation, results."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.checkpoint import (
    Checkpoints,
    best_step,
    has_checkpoint,
    read_evaluation,
    read_origin,
)
from amdjax.config import compute_dtype, gives_network, validate
from amdjax.data import Dataset, describe_dataset, load_dataset
from amdjax.data.registry import DatasetSpec
from amdjax.data.unknown import check_unknown
from amdjax.data.unlabeled import add_unlabeled
from amdjax.errors import UserError, warn
from amdjax.experiment import TEACHER, RunSpec, group_seeds, ignored_settings, plan_runs
from amdjax.files import check_writable, local_path
from amdjax.imports import apply_imports, unrecorded
from amdjax.models import Ensemble, Model, count_parameters, member_variables
from amdjax.predictor import count_prediction_parameters, create_predictor
from amdjax.pretrained import (
    GivenTeacher,
    TeacherSource,
    create_teacher,
    load_given_teacher,
    teacher_name,
    teacher_sources,
)
from amdjax.run_description import read_run, write_run
from amdjax.teacher_outputs.accuracy import low_accuracy_warnings
from amdjax.teacher_outputs.stored import StoredOutputs, open_outputs
from amdjax.training import results
from amdjax.training.conditions import trained_teacher
from amdjax.training.initial import InitialState, load_initial
from amdjax.training.loop import RunState, train_loop
from amdjax.training.metric_writer import METRICS_FILE, training_seconds
from amdjax.training.multi_step import StepRunner
from amdjax.training.preflight import check_settings, check_shapes
from amdjax.training.preflight_warnings import (
    seen_validation_warnings,
    small_data_warnings,
    started_students_warnings,
    teacher_warnings,
)
from amdjax.training.teacher_cache import TeacherCache
from amdjax.training.trainer import (
    Trainer,
    build_trainer,
    evaluate,
    train_batches,
)
from amdjax.workdir import (
    check_data,
    check_given_teacher,
    check_resumable,
    describe_run,
    write_config,
)
from amdjax.workdir_lock import WorkdirLock


def run(config: ml_collections.ConfigDict, workdir: Path, overridden: Collection[str] = ()) -> bool:
    """Trains what a config describes, or resumes it, and leaves the results in `workdir`.

    Args:
      config: see `configs/default.py`.
      workdir: where every run has its folder; `results.json` is written there at the end.
      overridden: names of settings, such as "losses.kd.temperature", that the user has changed;
        those that all methods override are printed, see `ignored_settings`.

    Returns:
      Whether everything is finished; False if a signal stopped it.

    Raises:
      UserError: on a mistake that the user can correct; what was finished until then is kept.
    """
    specs, data, mesh = _plan(config)
    with WorkdirLock(workdir) as lock:
        for spec in specs:
            check_resumable(config, spec, workdir / spec.name)
        if distributed.is_primary():
            for spec in specs:
                check_writable(workdir / spec.name)
        inputs = _load_inputs(config, specs, data, workdir)
        if distributed.is_primary():
            write_config(config, workdir)
            _print_ignored(config, specs, overridden)
            _print_start(config, specs, inputs, mesh.size)
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
    inputs = _load_inputs(config, specs, data, workdir)
    for spec in specs:
        train_batches(config, inputs.data_of(spec), spec.seed)
    if distributed.is_primary():
        _print_ignored(config, specs, overridden)
        _print_header(config, specs, inputs, mesh.size)
        print("the data are prepared and the settings are valid; nothing was trained", flush=True)


def _plan(config: ml_collections.ConfigDict) -> tuple[list[RunSpec], DatasetSpec, Mesh]:
    """Checks what can be checked before the data are prepared."""
    apply_imports(config)
    validate(config)
    specs = plan_runs(config)
    mesh = distributed.make_mesh()
    distributed.check_batch_size(config.batch_size, mesh, config.accumulate)
    check_settings(config, specs)
    data = describe_dataset(config.data)
    check_unknown(config.data)
    check_shapes(config, specs, data.num_classes, data.image_shape)
    return specs, data, mesh


class _Inputs(NamedTuple):
    """What an experiment reads besides its config.

    Attributes:
      dataset: of the teachers.
      students: data set of the students, with images without labels where the config has some.
      changes: sentences about images that have changed since a run was started.
      teacher: the students', where the config gives a network or an ensemble.
      outputs: the teacher's, where the config has a file of them.
      accuracy: of these outputs on the training images; None where it is not known.
      initial: what the students start from; None: from random variables.
    """

    dataset: Dataset
    students: Dataset
    changes: list[str]
    teacher: GivenTeacher | None
    outputs: StoredOutputs | None
    accuracy: float | None
    initial: InitialState | None

    def data_of(self, spec: RunSpec) -> Dataset:
        """Returns the data set that a run is trained on."""
        return self.dataset if spec.is_teacher else self.students


def _load_inputs(
    config: ml_collections.ConfigDict, specs: list[RunSpec], data: DatasetSpec, workdir: Path
) -> _Inputs:
    """Prepares and opens what the runs read, and compares it with what a workdir has."""
    dataset = load_dataset(config.data, data)
    students = add_unlabeled(dataset, config.data)
    outputs, accuracy = None, None
    if config.teacher.outputs and any(spec.teacher for spec in specs):
        outputs = open_outputs(config.teacher.outputs)
        accuracy = outputs.check_rows(students, config.data)
    _check_same_everywhere(dataset, students, outputs)
    changes = set()
    for spec in specs:
        fingerprint = (dataset if spec.is_teacher else students).fingerprint
        changes.add(check_data(config, workdir / spec.name, fingerprint))
    return _Inputs(
        dataset=dataset,
        students=students,
        changes=sorted(filter(None, changes)),
        teacher=_load_teacher(config, specs, dataset, workdir),
        outputs=outputs,
        accuracy=accuracy,
        initial=_load_initial(config, specs, students, workdir),
    )


def _print_start(
    config: ml_collections.ConfigDict, specs: list[RunSpec], inputs: _Inputs, num_devices: int
) -> None:
    """Prints what is going to be trained, on what, and what is unusual about it."""
    for change in inputs.changes:
        print(change)
    if note := unrecorded(config):
        print(note)
    _print_header(config, specs, inputs, num_devices)
    if inputs.initial is not None:
        print(f"students: start from {config.init_from} at step {inputs.initial.step}")
        path = local_path(config.init_from, "config.init_from")
        subject = f"the network {config.init_from}"
        warn(*seen_validation_warnings(config.data, path, subject))
    if inputs.outputs is not None:
        print(inputs.outputs.describe(inputs.accuracy), flush=True)
        if inputs.accuracy is not None:
            warn(*low_accuracy_warnings(inputs.accuracy, inputs.dataset.num_classes))
    sys.stdout.flush()


def _print_ignored(
    config: ml_collections.ConfigDict, specs: list[RunSpec], overridden: Collection[str]
) -> None:
    for sentence in ignored_settings(config, specs, overridden):
        print(f"note: {sentence}")


def _print_header(
    config: ml_collections.ConfigDict, specs: list[RunSpec], inputs: _Inputs, num_devices: int
) -> None:
    """Prints what the config plans, and warnings about settings that may not be what is meant."""
    warn(*small_data_warnings(config, [len(inputs.data_of(spec).train) for spec in specs]))
    if inputs.teacher is not None:
        for source in teacher_sources(config.teacher):
            warn(*teacher_warnings(config, source))
    print(results.header(config, inputs.dataset, inputs.data_of, specs, num_devices))
    if config.data.unlabeled:
        print(
            f"students: {len(inputs.students.train):,} training images, with those of "
            f"{config.data.unlabeled}, which have no labels"
        )


def _train_all(
    config: ml_collections.ConfigDict,
    specs: list[RunSpec],
    inputs: _Inputs,
    workdir: Path,
    mesh: Mesh,
    lock: WorkdirLock,
) -> bool:
    """Trains the runs one after the other, and returns whether all are finished."""
    teachers: dict[str, dict] = {}
    teacher_cache = TeacherCache()
    finished: results.Results = {}
    given_teacher: Sequence[Mapping[str, Any]] = ()
    if inputs.teacher is not None:
        teachers[TEACHER], result = import_teacher(config, inputs.teacher, inputs.dataset, mesh)
        finished[TEACHER] = {config.seed: result}
        given_teacher = inputs.teacher.checkpoints
    trainer: Trainer | None = None
    built_for: RunSpec | None = None
    with distributed.Preemption(lock.check) as preemption:
        for group in group_seeds(specs, config.seeds_at_once):
            if preemption.agreed:  # since the last step of the run before
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
            if shared.teacher is not None and inputs.outputs is None:
                teacher = teachers[shared.teacher]
            start = None if shared.is_teacher else inputs.initial
            trained = train_runs(
                trainer, group, workdir, teacher, teacher_cache, preemption, start, given_teacher
            )
            if trained is None:
                if distributed.is_primary():
                    print(f"stopped during {group[0].name}; repeat the command to resume")
                return False
            for spec, (variables, result) in zip(group, trained, strict=True):
                finished.setdefault(spec.label, {})[spec.seed] = result
                if spec.is_teacher:
                    teachers[spec.name] = variables
    if distributed.is_primary():
        results.write(workdir, inputs.dataset.fingerprint, finished)
        print(results.table(finished), flush=True)
    return True


def _check_same_everywhere(
    dataset: Dataset, students: Dataset, outputs: StoredOutputs | None
) -> None:
    """Makes sure that all processes read the same images, classes and outputs of a teacher.

    Raises:
      UserError: in all processes, naming those that do not.
    """
    seen = [data.fingerprint.to_dict() for data in (dataset, students)]
    digest = "" if outputs is None else outputs.digest
    if differing := distributed.differing_processes(json.dumps([seen, digest])):
        counts = ", ".join(f"{count:,} {split}" for split, count in seen[1]["num_images"].items())
        raise UserError(
            f"process {', '.join(map(str, differing))} reads other images, classes or outputs of a "
            f"teacher than process 0; give all processes the same. This one, process "
            f"{distributed.process_index()}, has {counts} images in {dataset.num_classes} classes, "
            f"from {dataset.class_names[0]} to {dataset.class_names[-1]}"
        )


def _load_teacher(
    config: ml_collections.ConfigDict, specs: list[RunSpec], dataset: Dataset, workdir: Path
) -> GivenTeacher | None:
    """Returns the teacher that the config gives; None where it gives no network or none is read.

    Raises:
      UserError: if it does not fit the data, or is not the one that a student has learned from.
    """
    students = [spec for spec in specs if spec.teacher]
    if not students or not gives_network(config):
        return None
    started = distributed.of_primary(all(has_checkpoint(workdir / spec.name) for spec in students))
    teacher = load_given_teacher(config.teacher, dataset.fingerprint, bool(started))
    for spec in students:
        check_given_teacher(workdir / spec.name, teacher.checkpoints)
    return teacher


def _load_initial(
    config: ml_collections.ConfigDict, specs: list[RunSpec], dataset: Dataset, workdir: Path
) -> InitialState | None:
    """Returns what students start from; None where that is nothing, or all have started."""
    students = [spec for spec in specs if not spec.is_teacher]
    started = all(has_checkpoint(workdir / spec.name) for spec in students)
    if not config.init_from or distributed.of_primary(started):
        return None
    return load_initial(config, dataset)


def import_teacher(
    config: ml_collections.ConfigDict, teacher: GivenTeacher, dataset: Dataset, mesh: Mesh
) -> tuple[dict, results.RunResult]:
    """Copies the teacher that the config gives to all devices, and prints its accuracy.

    Those of the members of an ensemble are printed, too.

    Args:
      config: of the experiment.
      teacher: from `load_given_teacher`.
      dataset: of the experiment.
      mesh: of all devices.

    Returns:
      Its variables, replicated, and its result.
    """
    sources = teacher_sources(config.teacher)
    variables = distributed.replicate(teacher.variables, mesh)
    module = create_teacher(config.teacher, dataset.num_classes, compute_dtype(config))
    origin: dict = {}

    def known_accuracy(source: TeacherSource) -> float | None:
        return read_evaluation(local_path(source.checkpoint, "config.teacher")).get("accuracy")

    if isinstance(module, Ensemble):
        for index, (source, member) in enumerate(zip(sources, module.members, strict=True)):
            network = member, member_variables(variables, index)
            subject, known = f"teacher {source.checkpoint}", known_accuracy(source)
            _evaluate_teacher(config, dataset, mesh, *network, subject, known)
        subject, known = f"mean of the {len(sources)} teachers", None
    else:
        subject, known = f"teacher {sources[0].checkpoint}", known_accuracy(sources[0])
        origin = read_origin(local_path(sources[0].checkpoint, "config.teacher"))
    evaluation = _evaluate_teacher(config, dataset, mesh, module, variables, subject, known)
    return variables, results.RunResult(
        teacher_name(config.teacher),
        count_parameters(variables),
        {0: evaluation},
        results.origin_of(None, origin),
    )


def _evaluate_teacher(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    module: Model,
    variables: dict,
    subject: str,
    known: float | None,
) -> dict[str, float]:
    """Evaluates a teacher that was trained before, and prints its accuracy.

    Args:
      config: of the experiment.
      dataset: of the experiment.
      mesh: of all devices.
      module: the network.
      variables: its variables, replicated.
      subject: of the line that is printed.
      known: accuracy of its checkpoint; None if that is not known.

    Returns:
      The values on the test split, with `VALIDATION` where there is a validation split.
    """
    predictor = create_predictor(module, config.augment, {})
    evaluation = evaluate(predictor, variables, dataset.test, config.batch_size, mesh)
    accuracy = evaluation["accuracy"]
    if dataset.validation is not None:
        held_out = evaluate(predictor, variables, dataset.validation, config.batch_size, mesh)
        evaluation[results.VALIDATION] = accuracy = held_out["accuracy"]
    if distributed.is_primary():
        print(
            f"{subject}: accuracy on the {dataset.selection_split} split {accuracy:.2%}",
            flush=True,
        )
        warn(*low_accuracy_warnings(accuracy, dataset.num_classes, known))
    return evaluation


def train_runs(
    trainer: Trainer,
    specs: tuple[RunSpec, ...],
    workdir: Path,
    teacher_variables: dict | None,
    teacher_cache: TeacherCache,
    preemption: distributed.Preemption,
    initial: InitialState | None = None,
    given_teacher: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[dict, results.RunResult]] | None:
    """Trains runs that differ only in their seeds, several of them as one program.

    Each resumes from the newest checkpoint of its folder. Those that stand at different steps, as
    after a crash between two checkpoints, are trained one after the other.

    Args:
      trainer: of these runs.
      specs: of the runs.
      workdir: of the experiment.
      teacher_variables: the teacher's; None where no loss reads it.
      teacher_cache: of the experiment.
      preemption: polled after every step.
      initial: what the runs start from; None: random weights.
      given_teacher: the checkpoints of the teacher that the config gives, see `GivenTeacher`.

    Returns:
      For each run the network's variables and its result; None if a signal stopped them.

    Raises:
      UserError: if a value is not finite, or the disk is full.
    """
    config, cache = trainer.config, None

    def open_run(spec: RunSpec) -> RunState:
        folder = workdir / spec.name
        description = describe_run(config, spec, trainer.dataset.fingerprint, given_teacher)
        checkpoints = stack.enter_context(Checkpoints(folder, description.to_dict()))
        # A process may not see the newest checkpoint yet on a shared disk.
        start = distributed.of_primary(checkpoints.latest_step() or 0)
        if start >= trainer.total_steps:
            # It stays what it was trained on, such as images that were other ones then.
            description = read_run(folder)
        elif distributed.is_primary():
            write_run(description, folder)
        if start:
            checkpoints.wait_for(start)
            # Into shapes: a run that is resumed does not compile how its first weights are drawn.
            state = checkpoints.restore_latest(trainer.state_shapes)
            log = checkpoints.restore_log()
        else:
            state, log = trainer.init_state(spec.seed, initial), {}
        return RunState(spec, folder, description, checkpoints, state, start, log)

    with contextlib.ExitStack() as stack:
        runs = [open_run(spec) for spec in specs]
        starts = sorted({run.start for run in runs})
        if isinstance(trainer.teacher, StoredOutputs):
            cache = trainer.teacher.rows(views=2 if config.augment.flip else 1)
        elif teacher_variables is not None and config.teacher.cached:
            if starts[0] < trainer.total_steps:
                cache = teacher_cache.outputs(trainer, specs[0].teacher, teacher_variables)
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
                    count_prediction_parameters(trainer.prediction_variables(run.state)),
                    _test_evaluations(trainer, run),
                    results.origin_of(
                        run.description,
                        read_origin(run.folder),
                        training_seconds(run.folder / METRICS_FILE, config.batch_size),
                        trained_teacher(workdir, run.spec.teacher),
                    ),
                ),
            )
            for run in runs
        ]


def _test_evaluations(trainer: Trainer, run: RunState) -> dict[int, dict[str, float]]:
    """Returns the evaluations of a finished run on the test split, by step.

    With a validation split these are made now: of the last step and of the one that is best there.
    """
    evaluations, dataset = dict(run.checkpoints.evaluations()), trainer.dataset
    last = run.checkpoints.latest_step()
    assert last is not None, "a finished run has a checkpoint"
    # All processes evaluate what the first one finds to be missing: on a shared disk another may
    # not see its files yet.
    if distributed.of_primary(last not in evaluations):
        # The run was stopped there, and `max_steps` is lower now.
        evaluations[last] = trainer.evaluate(run.state, dataset.selection)
    if dataset.validation is None:
        return evaluations
    tested = {}
    best = best_step(evaluations) if distributed.is_primary() else last
    for step in sorted({distributed.of_primary(best), last}):
        state = run.state if step == last else run.checkpoints.restore(step, run.state)
        tested[step] = trainer.evaluate(state, dataset.test)
        if distributed.is_primary():
            tested[step][results.VALIDATION] = evaluations[step]["accuracy"]
    return tested
