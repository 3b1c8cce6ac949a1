"""Lines that a training command prints when it starts: its plan, notes and warnings."""

import sys
from collections.abc import Collection, Sequence

import jax
import ml_collections

from amdjax import __version__, distributed
from amdjax.data import Dataset
from amdjax.errors import note, warn
from amdjax.experiment import RunSpec
from amdjax.files import local_path
from amdjax.imports import outdated, unrecorded
from amdjax.models import (
    Model,
    abstract_variables,
    canonical_model_name,
    count_parameters,
    create_model,
)
from amdjax.pretrained import create_teacher, teacher_name, teacher_sources
from amdjax.teacher_outputs.output_warnings import stored_output_warnings
from amdjax.teacher_outputs.stored import StoredOutputs
from amdjax.training.ignored_settings import ignored_settings
from amdjax.training.inputs import Inputs
from amdjax.training.preflight_warnings import (
    long_ramp_warnings,
    seen_validation_warnings,
    small_data_warnings,
    teacher_warnings,
    unlabeled_warnings,
)
from amdjax.weight_sources import describe_source


def print_plan(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    inputs: Inputs,
    overridden: Collection[str],
    num_devices: int,
) -> None:
    """Prints what is going to be trained, on what, and what is unusual about it.

    Args:
      config: of the experiment.
      specs: its runs.
      inputs: what they read.
      overridden: names of settings that the user has changed, see `ignored_settings`.
      num_devices: of all processes.
    """
    note(*inputs.changes, *unrecorded(config))
    note(*ignored_settings(config, specs, overridden), *_same_start(config, specs))
    warn(*outdated(config.imports))
    warn(*unlabeled_warnings(config.data))
    warn(*small_data_warnings(config, [len(inputs.data_of(spec).train) for spec in specs]))
    warn(*long_ramp_warnings(config, specs))
    if inputs.teacher is not None:
        for source in teacher_sources(config.teacher):
            warn(*teacher_warnings(config, source))
    print(header(config, specs, inputs, num_devices))
    if config.data.unlabeled:
        print(
            f"students: {len(inputs.student_dataset.train):,} training images, with those of "
            f"{config.data.unlabeled}, which have no labels"
        )
    if inputs.initial is not None:
        print(f"students: start from {config.init_from} at step {inputs.initial.step}")
        run = describe_source(local_path(config.init_from, "config.init_from"))
        subject = f"the network {config.init_from}"
        warn(*seen_validation_warnings(config.data, run, subject))
    if inputs.teacher_outputs is not None:
        outputs, accuracy = inputs.teacher_outputs, inputs.teacher_outputs_accuracy
        print(outputs.describe(accuracy))
        note(*_other_size(outputs, inputs.dataset))
        logits, num_classes = outputs.arrays["logits"], inputs.dataset.num_classes
        warn(*stored_output_warnings(logits, accuracy, num_classes))
    sys.stdout.flush()


def header(
    config: ml_collections.ConfigDict, specs: Sequence[RunSpec], inputs: Inputs, num_devices: int
) -> str:
    """Returns the lines that a command prints when it starts: what is trained, with what, on what.

    Args:
      config: of the experiment.
      specs: its runs.
      inputs: what they read.
      num_devices: of all processes.
    """
    dataset = inputs.dataset
    lengths = {
        "teacher" if spec.is_teacher else "students": len(inputs.data_of(spec).train)
        // config.batch_size
        for spec in specs
    }
    steps = f"{lengths['students']:,} steps"
    if len(set(lengths.values())) > 1:
        steps = " and ".join(f"{count:,} steps ({role})" for role, count in lengths.items())
    held_out = "" if dataset.validation is None else f", {len(dataset.validation):,} validation"
    classes = dataset.num_classes
    student = canonical_model_name(config.student.name)
    models = {f"student {student}": create_model(student, classes)}
    if any(spec.teacher for spec in specs) and not config.teacher.outputs:
        teacher = create_teacher(config.teacher, classes)
        models = {f"teacher {teacher_name(config.teacher)}": teacher, **models}
    networks = ", ".join(
        f"{name} ({_count(model, dataset):,} parameters)" for name, model in models.items()
    )
    return "\n".join(
        (
            f"amdjax {__version__}, JAX {jax.__version__}, {num_devices} x "
            f"{distributed.device_kind()}, {config.dtype}",
            f"{dataset.name}: {len(dataset.train):,} training{held_out} and "
            f"{len(dataset.test):,} test images of {_size(dataset.image_shape)} in "
            f"{dataset.num_classes} classes; "
            f"{config.epochs} epochs of {steps}, batch {config.batch_size}",
            f"{networks}; runs: {_runs(config, specs)}",
        )
    )


def _runs(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> str:
    """Returns the names of the runs, or of their methods where each has several seeds."""
    if len(config.seeds) < 2:
        return ", ".join(spec.name for spec in specs)
    labels = ", ".join(dict.fromkeys(spec.label for spec in specs))
    return f"{labels}; students with seeds {', '.join(map(str, config.seeds))}"


def _other_size(outputs: StoredOutputs, dataset: Dataset) -> list[str]:
    """Returns a sentence if the teacher has seen the images in another size than the students."""
    if outputs.data is None or outputs.data.image_shape == dataset.image_shape:
        return []
    theirs, ours = _size(outputs.data.image_shape), _size(dataset.image_shape)
    return [f"{outputs.path} was written for images of {theirs}, and those of the students {ours}"]


def _same_start(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> list[str]:
    """Returns a sentence if a teacher and a student have the same first weights."""
    teachers = {(spec.model, spec.seed) for spec in specs if spec.is_teacher}
    students = {(spec.model, spec.seed) for spec in specs if not spec.is_teacher}
    if config.init_from or not (shared := teachers & students):
        return []
    ((model, seed),) = shared
    return [
        f"teacher and students are the network {model} with seed {seed}: they start from the same "
        f"weights and see the same batches; --config.seeds={seed + 1} gives the students others"
    ]


def _size(image_shape: tuple[int, ...]) -> str:
    return "x".join(map(str, image_shape[:2]))


def _count(model: Model, dataset: Dataset) -> int:
    return count_parameters(abstract_variables(model, dataset.image_shape))
