"""Preflight checks: whole settings and shapes, before any data are prepared or networks trained."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections

from amdjax import distributed
from amdjax.data.augment import create_augment
from amdjax.data.mixing import create_mix
from amdjax.errors import UserError, unknown_name
from amdjax.experiment import RunSpec
from amdjax.losses import LossInputs, Objective, build_objective
from amdjax.models import Model, Outputs, create_model
from amdjax.training.optimizer import create_optimizer


def dummy_outputs(model: Model, image_shape: tuple[int, ...]) -> Outputs:
    """Returns the outputs of a network with new variables for two black images."""
    images = jnp.zeros((2, *image_shape))
    return model.init_with_output(jax.random.key(0), images, train=False)[0]


def dummy_inputs(student: Model, teacher: Model | None, image_shape: tuple[int, ...]) -> LossInputs:
    """Returns the inputs of the losses for two black images; for `Objective.init`."""
    return LossInputs(
        dummy_outputs(student, image_shape),
        None if teacher is None else dummy_outputs(teacher, image_shape),
        labels=jnp.zeros(2, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        gather=lambda x: x,
    )


def check_settings(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> None:
    """Checks everything in a config that needs no data: optimiser, augmentation, mixing, networks.

    Args:
      config: of the experiment.
      specs: its runs.

    Raises:
      UserError: on an unknown name, a value out of range, or settings that exclude each other.
    """
    create_optimizer(config.optim, steps_per_epoch=1, epochs=config.epochs)
    create_augment(config.augment)
    create_mix(config.mix, distributed.reverse_batch)
    for spec in specs:
        try:
            create_model(spec.model, num_classes=2)
            if spec.teacher is not None:
                create_model(config.teacher.name, num_classes=2)
                if config.teacher.cached:
                    _check_cacheable(config, build_objective(spec.losses))
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def check_shapes(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes the losses of every run on shapes alone.

    Args:
      config: of the experiment.
      specs: its runs.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a loss cannot compare teacher and student, or moments are to be exchanged in a
        layer that the student does not have.
    """

    def compute_losses(spec: RunSpec) -> tuple:
        student = create_model(spec.model, num_classes)
        teacher = None if spec.teacher is None else create_model(config.teacher.name, num_classes)
        inputs = dummy_inputs(student, teacher, image_shape)
        features = inputs.student.features
        if not spec.is_teacher and config.mix.name == "moex" and config.mix.layer not in features:
            raise unknown_name("config.mix.layer", config.mix.layer, features)
        objective = build_objective(spec.losses)
        if inputs.teacher is not None and config.teacher.cached:
            check_cached_sizes(objective, inputs.student, inputs.teacher)
        return objective.apply(objective.init(jax.random.key(0), inputs), inputs)

    for spec in specs:
        try:
            jax.eval_shape(lambda spec=spec: compute_losses(spec))
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def _check_cacheable(config: ml_collections.ConfigDict, objective: Objective) -> None:
    """Makes sure that the teacher's outputs for unchanged images are all that training needs.

    Raises:
      UserError: if an image is changed by more than a flip, or a loss needs more of the teacher
        than logits, embedding and attention maps.
    """
    changes = {
        "augment.padding": config.augment.padding > 0,
        "augment.noise": config.augment.noise > 0,
        "data.random_resized_crop": config.data.random_resized_crop,
        "mix.name": config.mix.name in ("mixup", "cutmix") and config.mix.teacher_sees_mixed,
    }
    for key, changed in changes.items():
        if changed:
            section, name = key.split(".")
            raise UserError(
                "config.teacher.cached computes the teacher's outputs once for each image, but "
                f"config.{key}={config[section][name]!r} changes the images; switch one of the "
                "two off"
            )
    if objective.uncacheable_losses:
        raise UserError(
            "config.teacher.cached keeps the teacher's logits, embedding and attention maps, but "
            f"{' and '.join(objective.uncacheable_losses)} needs whole features; switch it off"
        )


def check_cached_sizes(objective: Objective, student: Outputs, teacher: Outputs) -> None:
    """Makes sure that cached attention maps are those that the losses would compute.

    Args:
      objective: of the run.
      student: the student's outputs, of which only shapes matter.
      teacher: the teacher's outputs, of which only shapes matter.

    Raises:
      UserError: if a teacher's map is larger than the student's: it would be pooled before its
        attention map is taken.
    """
    for layer in objective.attention_features:
        ours, theirs = student.features[layer].shape[1:3], teacher.features[layer].shape[1:3]
        if theirs[0] > ours[0] or theirs[1] > ours[1]:
            raise UserError(
                f"config.teacher.cached: the teacher's {layer} ({theirs[0]}x{theirs[1]}) is larger "
                f"than the student's ({ours[0]}x{ours[1]}) and would be pooled before its "
                "attention map is taken; switch it off"
            )
