"""Curriculum temperature: Li et al., Curriculum temperature for knowledge distillation, AAAI 2023.

The global variant: one temperature for all samples.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses.kd import kd_loss


def ctkd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    parameter: jax.Array,
    reversal: jax.Array | float,
    start: float = 1.0,
    span: float = 20.0,
) -> jax.Array:
    """Returns `kd_loss` with the temperature `start + span * sigmoid(parameter)`, for each sample.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      parameter: float scalar; its gradient is multiplied by `reversal`.
      reversal: from -1, which makes the temperature maximise the loss, to 0. The loss and the
        gradient of the student do not depend on it.
      start: lower bound of the temperature.
      span: upper bound of the temperature minus `start`.

    Returns:
      float32 [B].
    """
    fixed = jax.lax.stop_gradient(parameter)
    reversed_parameter = fixed + reversal * (parameter - fixed)
    temperature = start + span * nn.sigmoid(reversed_parameter)
    return kd_loss(student_logits, teacher_logits, temperature)


def gradient_reversal(epoch: jax.Array, ramp_epochs: float = 10.0) -> jax.Array:
    """Returns the factor of the temperature's gradient, `(cos(pi min(e / R, 1)) - 1) / 2`.

    Args:
      epoch: e, float scalar; the published training counts its epochs from 1.
      ramp_epochs: R > 0, the epoch from which on the factor is -1.
    """
    return 0.5 * (jnp.cos(jnp.pi * jnp.minimum(epoch / ramp_epochs, 1.0)) - 1.0)


class CurriculumTemperature(nn.Module):
    """`ctkd_loss` with a trained temperature that makes the task harder, more so in each epoch.

    Attributes:
      start: lower bound of the temperature.
      span: upper bound of the temperature minus `start`.
      ramp_epochs: as for `gradient_reversal`.
    """

    start: float = 1.0
    span: float = 20.0
    ramp_epochs: float = 10.0

    @nn.compact
    def __call__(
        self, student_logits: jax.Array, teacher_logits: jax.Array, epoch: jax.Array
    ) -> jax.Array:
        """Returns the loss of logits [B,C] after `epoch` completed epochs, float32 [B]."""
        parameter = self.param("temperature", nn.initializers.ones, ())
        reversal = gradient_reversal(epoch + 1.0, self.ramp_epochs)
        return ctkd_loss(student_logits, teacher_logits, parameter, reversal, self.start, self.span)
