"""Attentive feature distillation: Wang et al., Pay attention to features, ICLR 2020.

Only the distillation, with the sigmoid attention of the common implementation; the selection
(pruning) of channels is not included.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import conv

_EPS = 1e-6  # added to the norm of a channel, as published
# The published distribution of the initial kernels, Kaiming's for the number of outputs.
_attention = functools.partial(
    nn.Dense, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal")
)


class AttentiveFeature(nn.Module):
    """The distance of one layer's channel maps, weighted by a trained attention over channels.

    `sum_c rho_c mean_hw (f_S,c / |f_S,c| - f_T,c / |f_T,c|)^2`: `rho`, of sum 1, is the sigmoid of
    two linear layers (a ReLU between them) on the teacher's average-pooled feature.

    Attributes:
      adapter: train a 1x1 convolution from the student's to the teacher's channels; without it
        both must have the same number of channels.
    """

    adapter: bool = False

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Returns the loss of features [B,H,W,C] and [B,H',W',C'], float32 [B].

        The teacher's feature receives no gradient.

        Raises:
          UserError: if the channels differ without an adapter, or the sizes do not match.
        """
        student, teacher = functional.comparable_maps(student_feature, teacher_feature)
        channels = teacher.shape[-1]
        if self.adapter:
            student = conv(channels, (1, 1), name="adapter")(student)
        functional.check_channels(
            student,
            teacher,
            "AFDS",
            "set config.losses.afds.adapter=True, or choose a teacher and a student of equal width",
        )
        hidden = nn.relu(_attention(channels, name="attention_0")(teacher.mean(axis=(1, 2))))
        # The sigmoids divided by their sum, also where all of them are smaller than any float32.
        rho = nn.softmax(nn.log_sigmoid(_attention(channels, name="attention_1")(hidden)))
        student, teacher = (
            x / (functional.safe_norm(x, axis=(1, 2)) + _EPS) for x in (student, teacher)
        )
        return jnp.sum(rho * jnp.square(student - teacher).mean(axis=(1, 2)), axis=-1)
