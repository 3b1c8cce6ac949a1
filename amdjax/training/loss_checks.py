"""Checks of losses: that they can be computed from the outputs of the networks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from amdjax import losses
from amdjax.config import compute_dtype
from amdjax.errors import UserError, error_summary, first_line, unknown_name, user_line
from amdjax.experiment import RunSpec, sees_unlabeled
from amdjax.losses import LossInputs, Objective, build_objective
from amdjax.models import Ensemble, Outputs, create_model, map_sizes
from amdjax.predictor import predicting_losses
from amdjax.pretrained import teacher_name, teacher_sources
from amdjax.training.dummy_outputs import dummy_inputs, output_shapes
from amdjax.training.network_checks import check_shape
from amdjax.training.run_teacher import create_run_teacher


def check_loss_shapes(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes the losses of a run on shapes alone.

    Args:
      config: of the experiment.
      spec: the run.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a loss cannot compare teacher and student, what a loss predicts has another
        shape than logits, or moments are to be exchanged in a layer that the student does not have.
    """
    student = create_model(spec.model, num_classes, compute_dtype(config))
    teacher = create_run_teacher(config, spec, num_classes)
    objective = build_objective(spec.losses, some_unlabeled=sees_unlabeled(config, spec))

    def compute() -> Any:
        inputs = dummy_inputs(
            output_shapes(student, image_shape),
            None if teacher is None else output_shapes(teacher, image_shape),
        )
        if not spec.is_teacher:
            inputs = _mix_labels(config, inputs, num_classes)
        if isinstance(teacher, Ensemble) and inputs.teacher is not None:
            _check_joined(config, teacher, objective, inputs.teacher, image_shape)
        variables, computed = _apply_losses(config, spec, objective, inputs)
        _check_predictions(spec, objective, variables, inputs.student, num_classes)
        if inputs.teacher is not None and config.teacher.outputs:
            check_stored_sizes(objective, inputs.student, inputs.teacher)
        return computed

    jax.eval_shape(compute)


def _mix_labels(
    config: ml_collections.ConfigDict, inputs: LossInputs, num_classes: int
) -> LossInputs:
    """Returns the inputs with the labels that mixed images have, where images are mixed.

    Raises:
      UserError: if moments are to be exchanged in a layer that the student does not have.
    """
    if config.mix.name == "none":
        return inputs
    features = inputs.student.features
    if config.mix.name == "moex" and config.mix.layer not in features:
        raise unknown_name("config.mix.layer", config.mix.layer, features)
    return inputs._replace(labels=jnp.zeros((2, num_classes)))


def _apply_losses(
    config: ml_collections.ConfigDict, spec: RunSpec, objective: Objective, inputs: LossInputs
) -> tuple[dict, tuple]:
    """Returns the variables of the losses, and what `Objective.apply` returns with them.

    Raises:
      UserError: if a loss cannot be computed.
    """
    try:
        variables = objective.init(jax.random.key(0), inputs)
        return variables, objective.apply(variables, inputs)
    except UserError:
        raise
    except Exception as error:
        names = {"student": spec.model, "teacher": teacher_name(config.teacher)}
        _explain_features(objective, inputs, names, error)
        if line := user_line(error, called_by=losses.objective.__file__):  # of a registered loss
            hint = ""
            if inputs.labels.ndim == 2:
                mix = config.mix.name
                hint = f"; with config.mix.name={mix!r} labels are probabilities [B,C]"
            if isinstance(error, jax.errors.TracerArrayConversionError):
                hint += "; use jax.numpy in place of numpy"
            problem = f"{line}{error_summary(error)}{hint}"
            raise UserError(f"a loss cannot be computed: {problem}") from error
        raise


def _check_predictions(
    spec: RunSpec, objective: Objective, variables: dict, student: Outputs, num_classes: int
) -> None:
    """Makes sure that a loss that defines the predictions returns logits.

    Raises:
      UserError: if they have another shape.
    """
    predicting = objective.predicting_variables(variables) or None
    for loss in predicting_losses(spec.losses):
        check_shape(
            f"the logits that the loss {loss} predicts with the network {spec.model!r}",
            objective.predict(student, predicting).logits,
            (2, num_classes),
            "class_weights must be the kernel [D, num_classes] of the classifier, where the "
            "loss reads them",
        )


def _explain_features(
    objective: Objective, inputs: LossInputs, names: Mapping[str, str], error: Exception
) -> None:
    """Explains an error of the losses, where one of them reads a feature that is not a map.

    Some losses accept features of any shape, so these have not been refused before.

    Args:
      objective: of the run.
      inputs: of the losses, of which only shapes matter.
      names: of the networks, "student" and "teacher".
      error: of the losses.

    Raises:
      UserError: if a loss reads such a feature.
    """
    for term in objective.terms:
        for layers in term.spec.layer_pairs(term.selection):
            for side, layer in zip(("student", "teacher"), layers, strict=True):
                if not any(name.endswith(f"{side}.features") for name in term.spec.inputs):
                    continue
                feature = getattr(inputs, side).features.get(layer)
                if feature is not None and feature.ndim != 4:
                    raise UserError(
                        f"the loss {term.name} cannot be computed ({first_line(error)}): it reads "
                        f"{layer} of the {side} {names[side]!r}, which is {list(feature.shape)} "
                        "for two images and not a map [2, H, W, C]; reshape it, or name other "
                        f"layers in config.losses.{term.name}.features"
                    ) from error


def _check_joined(
    config: ml_collections.ConfigDict,
    teacher: Ensemble,
    objective: Objective,
    outputs: Outputs,
    image_shape: tuple[int, ...],
) -> None:
    """Makes sure that an ensemble has the features that the losses of a run read.

    Args:
      config: of the experiment.
      teacher: the ensemble.
      objective: of the run.
      outputs: the ensemble's, of which only the names of the features matter.
      image_shape: (H, W, 3).

    Raises:
      UserError: if the members have a feature in different sizes, or not all have it.
    """
    for loss, layer in objective.teacher_layers:
        if layer in outputs.features:
            continue
        sizes = map_sizes([output_shapes(member, image_shape) for member in teacher.members], layer)
        if any(sizes):  # else no member knows the name
            members = (
                f"{source.model} has {'no ' + layer if size is None else 'x'.join(map(str, size))}"
                for source, size in zip(teacher_sources(config.teacher), sizes, strict=True)
            )
            raise UserError(
                f"the loss {loss} reads {layer} of the teachers, which is joined only from maps of "
                f"one size: {', '.join(members)}; name other layers in "
                f"config.losses.{loss}.features, or choose other teachers"
            )


def check_stored_sizes(objective: Objective, student: Outputs, teacher: Outputs) -> None:
    """Makes sure that stored attention maps are those that the losses would compute.

    Args:
      objective: of the run.
      student: the student's outputs, of which only shapes matter.
      teacher: the teacher's outputs, of which only shapes matter.

    Raises:
      UserError: if a teacher's map is larger than the student's: it would be pooled before its
        attention map is taken.
    """
    if pair := objective.pooled_pair(student, teacher):
        ours, theirs = (
            "x".join(map(str, outputs.features[layer].shape[1:3]))
            for outputs, layer in zip((student, teacher), pair, strict=True)
        )
        raise UserError(
            f"the teacher's {pair[1]} ({theirs}) is larger than the student's ({ours}) and would "
            "be pooled before its attention map is taken, which outputs that are computed once do "
            "not allow; store maps of the student's size in config.teacher.outputs"
        )
