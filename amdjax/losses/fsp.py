"""Flow of solution procedure: Yim et al., A gift from knowledge distillation, CVPR 2017."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.connectors import conv


def flow_matrix(feature: jax.Array, next_feature: jax.Array) -> jax.Array:
    """Returns the flow from a layer to the next: the inner products of their channels.

    `M[d, c] = mean_hw g(h, w, d) f(h, w, c)` with the feature f and the next feature g, the larger
    of the two average-pooled to the size of the smaller.

    Args:
      feature: float [B,H,W,C].
      next_feature: float [B,H',W',D].

    Returns:
      float32 [B,D,C].
    """
    f, g = functional.pool_to_smaller(
        *(functional.promote_to_float32(x) for x in (feature, next_feature))
    )
    flow = jnp.einsum("bhwd,bhwc->bdc", g, f, precision=jax.lax.Precision.HIGHEST)
    return flow / (f.shape[1] * f.shape[2])


def fsp_loss(
    student_features: Sequence[jax.Array], teacher_features: Sequence[jax.Array]
) -> jax.Array:
    """Returns the summed mean squared differences of the flow matrices, for each sample.

    `sum_i mean_dc (M_S - M_T)^2` over neighbouring layers i and i + 1 (Eq. 2, with the mean instead
    of the sum and equal weights, as in the common benchmark code).

    Args:
      student_features: at least two features [B,H,W,C], from the input to the output.
      teacher_features: as many features of the same channels; their sizes may differ. They receive
        no gradient.

    Returns:
      float32 [B].

    Raises:
      UserError: if there is one layer only, or if the channels of a layer differ.
    """
    if len(student_features) < 2:
        raise UserError("FSP needs at least two layers: set config.losses.fsp.features")
    teacher_features = jax.lax.stop_gradient(list(teacher_features))
    for student, teacher in zip(student_features, teacher_features, strict=True):
        functional.check_channels(
            student,
            teacher,
            "FSP",
            "set config.losses.fsp.adapter=True, or choose a teacher and a student of equal width",
        )
    loss = jnp.zeros((), jnp.float32)
    for i in range(len(student_features) - 1):
        difference = flow_matrix(*student_features[i : i + 2]) - flow_matrix(
            *teacher_features[i : i + 2]
        )
        loss += jnp.mean(jnp.square(difference), axis=(1, 2))
    return loss


class FlowProcedure(nn.Module):
    """`fsp_loss`, with adapters where the channels differ.

    Attributes:
      adapter: train a 1x1 convolution from the student's to the teacher's channels of each layer;
        without it both must have the same number of channels.
    """

    adapter: bool = False

    @nn.compact
    def __call__(self, student: list[jax.Array], teacher: list[jax.Array]) -> jax.Array:
        """Returns the loss of lists of features [B,H,W,C], float32 [B]."""
        if self.adapter:
            student = [
                conv(t.shape[-1], (1, 1), name=f"adapter_{i}")(functional.promote_to_float32(s))
                for i, (s, t) in enumerate(zip(student, teacher, strict=True))
            ]
        return fsp_loss(student, teacher)
