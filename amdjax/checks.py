"""What is tried before any training, so that hours are not lost to what seconds can show."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.config import Phase
from amdjax.errors import UserError
from amdjax.losses import Inputs, objective
from amdjax.models import create_model


def check_shapes(
    config: ml_collections.ConfigDict,
    plan: list[Phase],
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
      UserError: if a network is unknown, or a loss cannot compare teacher and student.
    """
    images = jnp.zeros((2, *image_shape))
    labels = jnp.zeros(2, jnp.int32)

    def losses_of(phase: Phase) -> Any:
        def outputs(name: str) -> Any:
            model = create_model(name, num_classes)
            return model.init_with_output(jax.random.key(0), images, train=False)[0]

        teacher = outputs(config.teacher.name) if phase.needs_teacher else None
        inputs = Inputs(outputs(phase.model), teacher, labels, gather=lambda x: x)
        return objective(phase.losses).apply(inputs, jnp.zeros((), jnp.int32))

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
