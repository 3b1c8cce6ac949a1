"""Hints: Romero et al., FitNets: hints for thin deep nets, ICLR 2015."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import conv


def hint_loss(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the mean squared difference of two features, for each sample.

    `mean_hwc (f_S - f_T)^2` (Eq. 3, with the mean instead of the sum).

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C]; receives no gradient. The larger map is average-pooled.

    Returns:
      float32 [B].

    Raises:
      UserError: if the larger map is not a whole multiple of the smaller.
    """
    student, teacher = functional.comparable_maps(student_feature, teacher_feature)
    return jnp.mean(jnp.square(student - teacher), axis=(1, 2, 3))


class FitNet(nn.Module):
    """`hint_loss` after a trained 1x1 convolution from the student's to the teacher's channels."""

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Returns the loss of features [B,H,W,C] and [B,H',W',C'], float32 [B]."""
        channels = teacher_feature.shape[-1]
        adapted = conv(channels, (1, 1), name="adapter")(
            functional.promote_to_float32(student_feature)
        )
        return hint_loss(adapted, teacher_feature)
