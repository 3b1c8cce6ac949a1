"""What is tried before any training, so that hours are not lost to what seconds can show."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from amdjax.config import RunSpec
from amdjax.errors import UserError, unknown_name
from amdjax.losses import LossInputs, build_objective
from amdjax.models import Outputs, create_model
from amdjax.training.teacher_cache import check_teacher_cache


def dummy_outputs(model: nn.Module, image_shape: tuple[int, ...]) -> Outputs:
    """Returns what a network of new variables makes of two black images."""
    images = jnp.zeros((2, *image_shape))
    return model.init_with_output(jax.random.key(0), images, train=False)[0]


def dummy_inputs(
    student: nn.Module, teacher: nn.Module | None, image_shape: tuple[int, ...]
) -> LossInputs:
    """Returns what an objective would read of two black images; for `Objective.init`."""
    return LossInputs(
        dummy_outputs(student, image_shape),
        None if teacher is None else dummy_outputs(teacher, image_shape),
        labels=jnp.zeros(2, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        gather=lambda x: x,
    )


def check_shapes(
    config: ml_collections.ConfigDict,
    plan: list[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes every phase's losses on shapes alone.

    Args:
      config: the run's.
      plan: its phases.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a network is unknown, a loss cannot compare teacher and student, or moments
        are to be exchanged at a place that the student does not have.
    """

    def losses_of(phase: RunSpec) -> Any:
        student = create_model(phase.model, num_classes)
        teacher = None if phase.teacher is None else create_model(config.teacher.name, num_classes)
        inputs = dummy_inputs(student, teacher, image_shape)
        features = inputs.student.features
        if not phase.is_teacher and config.mix.name == "moex" and config.mix.layer not in features:
            raise unknown_name("config.mix.layer", config.mix.layer, features)
        objective = build_objective(phase.losses)
        if teacher is not None and config.teacher.cached:
            check_teacher_cache(config, objective, inputs.student, inputs.teacher)
        return objective.apply(objective.init(jax.random.key(0), inputs), inputs)

    for phase in plan:
        try:
            jax.eval_shape(lambda phase=phase: losses_of(phase))
        except UserError as error:
            raise UserError(f"{phase.name}: {error}") from error


def check_writable(folder: Path) -> None:
    """Creates a folder, and makes sure that files can be written to it.

    Raises:
      UserError: if not.
    """
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; make room there or choose another "
            "--workdir"
        ) from error
