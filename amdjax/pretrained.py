"""Teachers that were trained before: in a run of amdjax, or in PyTorch."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections

from amdjax import distributed
from amdjax.checkpoint import network_of, read_checkpoint
from amdjax.checkpoint_files import checkpoint_digest, step_of
from amdjax.data.fingerprint import Fingerprint, compare_classes
from amdjax.errors import UserError, warn
from amdjax.files import local_path
from amdjax.models import (
    Ensemble,
    Model,
    canonical_model_name,
    create_model,
    join_variables,
)
from amdjax.predictor import predicting_losses
from amdjax.run_description import RunDescription, read_saved_run
from amdjax.weight_files import read_weights
from amdjax.weight_sources import (
    check_variables,
    describe_source,
    find_run,
    find_source,
    find_weights,
)


class TeacherSource(NamedTuple):
    """A network of the teacher: where its variables are read, and what it is.

    Attributes:
      checkpoint: `config.teacher.checkpoint`, or one of `config.teacher.ensemble`; "" for a teacher
        that the run trains.
      model: name of the network.
      weight: of its outputs.
    """

    checkpoint: str
    model: str
    weight: float


def teacher_sources(teacher: ml_collections.ConfigDict) -> tuple[TeacherSource, ...]:
    """Returns the networks of the teacher: one, or those of an ensemble.

    The weights are divided by their sum.

    Args:
      teacher: `config.teacher`.

    Raises:
      UserError: if a member of the ensemble does not say which network it is.
    """
    if not teacher.ensemble:
        return (TeacherSource(teacher.checkpoint, canonical_model_name(teacher.name), 1.0),)
    models = teacher.ensemble_models or map(_model_of_run, teacher.ensemble)
    weights = teacher.ensemble_weights or (1.0,) * len(teacher.ensemble)
    shares = (weight / sum(weights) for weight in weights)
    return tuple(map(TeacherSource, teacher.ensemble, map(canonical_model_name, models), shares))


def teacher_name(teacher: ml_collections.ConfigDict) -> str:
    """Returns the name of the teacher's network; those of an ensemble joined by " + "."""
    return " + ".join(source.model for source in teacher_sources(teacher))


def _model_of_run(path: str) -> str:
    folder = find_run(local_path(path, "config.teacher.ensemble"))
    run = None if folder is None else read_saved_run(folder)
    if run is None:
        raise UserError(
            f"config.teacher.ensemble: {path} is not the folder of a run with a checkpoint, which "
            "says what network it is; name the networks of all members in "
            "config.teacher.ensemble_models"
        )
    return run.model


def create_teacher(
    teacher: ml_collections.ConfigDict,
    num_classes: int,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
) -> Model:
    """Creates the teacher's network, or an ensemble of several.

    Args:
      teacher: `config.teacher`.
      num_classes: as for `create_model`.
      dtype: as for `create_model`.
      axis_name: as for `create_model`.

    Raises:
      UserError: see `teacher_sources` and `create_model`.
    """
    sources = teacher_sources(teacher)
    members = [create_model(source.model, num_classes, dtype, axis_name) for source in sources]
    if not teacher.ensemble:
        return members[0]
    return Ensemble(
        members=tuple(members),
        weights=tuple(source.weight for source in sources),
        num_classes=num_classes,
        dtype=dtype,
        axis_name=axis_name,
    )


class GivenTeacher(NamedTuple):
    """Weights of a teacher that was trained before, and where they were read.

    Attributes:
      variables: {"params": ..., "batch_stats": ...} of float32 arrays, for `create_teacher`.
      checkpoints: the checkpoints that they were read from, as JSON values: the path that the
        config has ("source"), "step" and "digest". Files of weights and checkpoints without
        checksums are left out.
    """

    variables: dict
    checkpoints: tuple[dict[str, Any], ...] = ()


def load_given_teacher(
    teacher: ml_collections.ConfigDict, data: Fingerprint, resumed: bool = False
) -> GivenTeacher:
    """Reads the teacher of `config.teacher.checkpoint` or `config.teacher.ensemble`.

    Args:
      teacher: `config.teacher`.
      data: as for `load_teacher`.
      resumed: as for `load_teacher`.

    Raises:
      UserError: see `load_teacher`.
    """
    if not teacher.ensemble:
        return load_teacher(teacher.checkpoint, teacher.name, data, resumed=resumed)
    members = [
        load_teacher(source.checkpoint, source.model, data, "config.teacher.ensemble", resumed)
        for source in teacher_sources(teacher)
    ]
    return GivenTeacher(
        join_variables([member.variables for member in members]),
        tuple(checkpoint for member in members for checkpoint in member.checkpoints),
    )


def load_teacher(
    path: str,
    name: str,
    data: Fingerprint,
    setting: str = "config.teacher.checkpoint",
    resumed: bool = False,
) -> GivenTeacher:
    """Reads a network that is the teacher, or a member of an ensemble.

    Args:
      path: value of the setting: a run's folder, its `checkpoints` folder or one step in
        it (the newest is taken), or PyTorch weights as `.npz`, `.safetensors`, `.pth`, `.pt`,
        `.ckpt` or `.bin`, or a folder with such a file, see `find_weights`.
      name: the model that the weights belong to.
      data: fingerprint of the data set, whose classes the teacher must have.
      setting: that names the path, for messages.
      resumed: whether all students have started with this teacher. Then its run is not refused:
        what would be an error is a warning on stderr.

    Raises:
      UserError: if the file is missing, damaged, of another model, or of other classes, or a loss
        of the teacher's run defines its predictions.
    """
    file = find_source(path, setting)
    weights, run = find_weights(file), None
    if weights is not None:
        teacher = GivenTeacher(read_weights(weights, name))
    else:
        run = describe_source(file)
        if run is not None:
            _check_run(run, data, f"{setting}: {path}", resumed)
        teacher = _read_teacher(file, path)
    try:
        check_variables(teacher.variables, name, len(data.class_names), file, data.image_shape)
    except UserError as error:
        if run is None or run.model == canonical_model_name(name):
            raise
        names = "ensemble_models" if setting == "config.teacher.ensemble" else "name"
        raise UserError(
            f"{setting}: {path} has the network {run.model}, not {name}; correct "
            f"config.teacher.{names}"
        ) from error
    return teacher


def _read_teacher(file: Path, source: str) -> GivenTeacher:
    checkpoint, state = read_checkpoint(file)
    step, digest = step_of(checkpoint), checkpoint_digest(checkpoint)
    if step is None or digest is None:
        return GivenTeacher(network_of(state))
    read = {"source": source, "step": step, "digest": digest}
    return GivenTeacher(network_of(state), (read,))


def _check_run(run: RunDescription, data: Fingerprint, subject: str, resumed: bool) -> None:
    """Makes sure that students can learn from the outputs of a network of a run.

    Args:
      run: that trained the network.
      data: fingerprint of the data set.
      subject: the network, for the message.
      resumed: as for `load_teacher`.

    Raises:
      UserError: if it was trained on other classes, or a loss defines its predictions.
    """
    if difference := compare_classes(run.data, data):
        problem = (
            f"{subject} was trained on different classes from those of the data ({difference}), "
            "and students would learn its outputs as those of the wrong classes"
        )
        remedy = (
            "choose a teacher of these classes, or give its outputs in their order with "
            "config.teacher.outputs, or rename the folders of the images if only names differ"
        )
    elif predicting := predicting_losses(run.losses):
        problem = (
            f"{subject} was trained with {' and '.join(predicting)}, whose predictions are not the "
            "softmax of the logits, and students would learn from the logits"
        )
        remedy = (
            "choose another teacher, or write the outputs of load_run(...).logits with "
            "amdjax-teacher-outputs for config.teacher.outputs"
        )
    else:
        return
    if not resumed:
        raise UserError(f"{problem}: {remedy}")
    if distributed.is_primary():
        warn(f"{problem}; the students were started with it and continue")
