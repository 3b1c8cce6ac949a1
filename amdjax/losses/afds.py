"""Attentive feature distillation: Wang et al., Pay attention to features, ICLR 2020.

The distillation half, with the sigmoid attention of the common implementation; selecting (pruning)
channels is not part of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional

_EPS = 1e-6  # the published addend of a channel's norm


class AttentiveFeature(nn.Module):
    """The distance of one layer's channel maps, weighted by a trained attention over channels.

    `sum_c rho_c mean_hw (f_S,c / |f_S,c| - f_T,c / |f_T,c|)^2`: `rho`, of sum 1, is the sigmoid of
    two 1x1 convolutions of the teacher's average-pooled feature.

    Attributes:
      adapter: train a 1x1 convolution from the student's to the teacher's channels; without it
        they must be equal in number.
    """

    adapter: bool = False

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Maps features [B,H,W,C] and [B,H',W',C'] to float32 [B]; the teacher's has no gradient.

        Raises:
          UserError: if the channels differ and there is no adapter, or the sizes do not match.
        """
        student, teacher = functional.match_size(
            functional.promote_to_float32(student_feature),
            functional.promote_to_float32(jax.lax.stop_gradient(teacher_feature)),
        )
        channels = teacher.shape[-1]
        if self.adapter:
            student = nn.Conv(channels, (1, 1), name="adapter")(student)
        elif student.shape[-1] != channels:
            raise UserError(
                f"AFDS compares channel by channel, but the student has {student.shape[-1]} and "
                f"the teacher {channels}: set config.losses.afds.adapter=True, or take a pair of "
                "equal width"
            )
        hidden = nn.relu(nn.Dense(channels, name="attention_0")(teacher.mean(axis=(1, 2))))
        rho = nn.sigmoid(nn.Dense(channels, name="attention_1")(hidden))
        rho /= rho.sum(axis=-1, keepdims=True)
        student, teacher = (
            x / (functional.safe_norm(x, axis=(1, 2)) + _EPS) for x in (student, teacher)
        )
        return jnp.sum(rho * jnp.square(student - teacher).mean(axis=(1, 2)), axis=-1)
