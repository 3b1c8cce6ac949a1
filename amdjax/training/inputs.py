"""Inputs of an experiment besides its config: data sets, given teacher, initial weights."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from amdjax import distributed
from amdjax.checkpoint_files import has_checkpoint
from amdjax.config import given_teacher_setting, gives_network
from amdjax.data import Dataset
from amdjax.data.registry import DatasetSpec
from amdjax.data.unlabeled import add_unlabeled
from amdjax.errors import UserError
from amdjax.experiment import RunSpec
from amdjax.models import variables_digest
from amdjax.pretrained import GivenTeacher, load_given_teacher, teacher_sources
from amdjax.resuming import changed_code, check_data, check_given_teacher
from amdjax.teacher_outputs.stored import StoredOutputs, open_outputs
from amdjax.training.initial_state import InitialState, load_initial
from amdjax.training.trainer import train_batches
from amdjax.weight_sources import find_source


class Inputs(NamedTuple):
    """Inputs of an experiment besides its config.

    Attributes:
      dataset: of the teachers.
      student_dataset: of the students, with images without labels where the config has some.
      changes: sentences about images that have changed since a run was started.
      teacher: the students', where the config gives a network or an ensemble.
      teacher_outputs: the teacher's, where the config has a file of them.
      teacher_outputs_accuracy: of these outputs on the training images; None where it is not known.
      initial: what the students start from; None: from random variables.
    """

    dataset: Dataset
    student_dataset: Dataset
    changes: list[str]
    teacher: GivenTeacher | None
    teacher_outputs: StoredOutputs | None
    teacher_outputs_accuracy: float | None
    initial: InitialState | None

    def data_of(self, spec: RunSpec) -> Dataset:
        """Returns the data set that a run is trained on."""
        return self.dataset if spec.is_teacher else self.student_dataset

    def initial_of(self, spec: RunSpec) -> InitialState | None:
        """Returns what a run starts from; None: random variables."""
        return None if spec.is_teacher else self.initial

    @property
    def teacher_checkpoints(self) -> tuple[dict[str, Any], ...]:
        """The checkpoints of the teacher that the config gives, see `GivenTeacher`."""
        return () if self.teacher is None else self.teacher.checkpoints


def load_inputs(
    config: ml_collections.ConfigDict, specs: list[RunSpec], data: DatasetSpec, workdir: Path
) -> Inputs:
    """Prepares and opens what the runs read, and compares it with what a workdir has.

    Args:
      config: of the experiment.
      specs: its runs.
      data: description of its data set.
      workdir: of the experiment; it may not exist.

    Raises:
      UserError: if something cannot be read, or does not fit the rest, or is not what the runs in
        the workdir or the other processes read.
    """
    _check_sources(config, specs, workdir)
    dataset = data.open()
    students = add_unlabeled(dataset, config.data)
    outputs, accuracy = None, None
    if config.teacher.outputs and any(spec.teacher for spec in specs):
        outputs = open_outputs(config.teacher.outputs)
        accuracy = outputs.check_rows(students, config.data)
    _check_same_everywhere(dataset, students, outputs)
    changes = set()
    for spec in specs:
        of_run = dataset if spec.is_teacher else students
        train_batches(config, of_run, spec.seed)  # raises if it does not fill a batch
        changes.add(check_data(config, workdir / spec.name, of_run.fingerprint))
    teacher = _load_teacher(config, specs, dataset, workdir)
    initial = None
    if _reads_initial(config, specs, workdir):
        initial = load_initial(config, students)
    _check_same_weights("config.teacher", None if teacher is None else teacher.variables)
    _check_same_weights("config.init_from", None if initial is None else initial.variables)
    return Inputs(
        dataset=dataset,
        student_dataset=students,
        changes=sorted(filter(None, changes)) + changed_code(workdir / spec.name for spec in specs),
        teacher=teacher,
        teacher_outputs=outputs,
        teacher_outputs_accuracy=accuracy,
        initial=initial,
    )


def _check_sources(config: ml_collections.ConfigDict, specs: list[RunSpec], workdir: Path) -> None:
    """Makes sure that there are weights where the config names some, before data are prepared."""
    if _reads_teacher(config, specs):
        setting = f"config.teacher.{given_teacher_setting(config)}"
        for source in teacher_sources(config.teacher):
            find_source(source.checkpoint, setting)
    if _reads_initial(config, specs, workdir):
        find_source(config.init_from, "config.init_from")


def _reads_teacher(config: ml_collections.ConfigDict, specs: list[RunSpec]) -> bool:
    return gives_network(config) and any(spec.teacher for spec in specs)


def _reads_initial(config: ml_collections.ConfigDict, specs: list[RunSpec], workdir: Path) -> bool:
    """Returns whether there is a network from which students start that have not started."""
    students = [spec for spec in specs if not spec.is_teacher]
    return bool(config.init_from) and not _have_started(students, workdir)


def _have_started(runs: list[RunSpec], workdir: Path) -> bool:
    """Returns whether all of some runs have a checkpoint, as the first process sees it."""
    started = all(has_checkpoint(workdir / spec.name) for spec in runs)
    return distributed.broadcast_from_primary(started)


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
            f"process {', '.join(map(str, differing))} reads different images, classes or outputs "
            f"of a teacher from process 0; give all processes the same. This one, process "
            f"{distributed.process_index()}, has {counts} images in {dataset.num_classes} classes, "
            f"from {dataset.class_names[0]} to {dataset.class_names[-1]}"
        )


def _check_same_weights(setting: str, variables: dict | None) -> None:
    """Makes sure that all processes have read the same weights.

    Their paths may differ, and a run that is still trained may save a checkpoint in between.

    Args:
      setting: that names the weights, for the message.
      variables: that this process has read; None in all processes where they need none.

    Raises:
      UserError: in all processes, naming those with other weights.
    """
    if variables is None or distributed.process_count() == 1:
        return
    if differing := distributed.differing_processes(variables_digest(variables)):
        raise UserError(
            f"process {', '.join(map(str, differing))} reads different weights of {setting} from "
            "process 0; give all processes the same files, of a training that has ended"
        )


def _load_teacher(
    config: ml_collections.ConfigDict, specs: list[RunSpec], dataset: Dataset, workdir: Path
) -> GivenTeacher | None:
    """Returns the teacher that the config gives; None where it gives no network or none is read.

    Raises:
      UserError: if it does not fit the data, or is not the one that a student has learned from.
    """
    if not _reads_teacher(config, specs):
        return None
    students = [spec for spec in specs if spec.teacher]
    started = _have_started(students, workdir)
    teacher = load_given_teacher(config.teacher, dataset.fingerprint, started)
    for spec in students:
        check_given_teacher(workdir / spec.name, teacher.checkpoints)
    return teacher
