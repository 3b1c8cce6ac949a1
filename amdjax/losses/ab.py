"""Activation boundaries: Heo et al., Knowledge transfer via activation boundaries, AAAI 2019."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import Regressor

_SCALE = 3e-3  # the published 1/1000 of the loss, times the authors' 3


def ab_loss(
    student_features: Sequence[jax.Array],
    teacher_features: Sequence[jax.Array],
    margin: float = 1.0,
) -> jax.Array:
    """Returns the squared hinge of the student at the teacher's activations, for each sample.

    `sum_i 2^(i - L + 1) 0.003 sum_hwc h` over the layers i = 0 ... L - 1, with
    `h = max(0, s + m)^2` where the teacher is not active and `h = max(0, m - s)^2` where it is
    active, above 0 (Eq. 3). The features are those before a ReLU.

    Args:
      student_features: L features [B,H,W,C], from the input to the output.
      teacher_features: features of the same shapes; receive no gradient.
      margin: m.

    Returns:
      float32 [B].

    Raises:
      UserError: if the shapes of a layer differ.
    """
    loss = jnp.zeros((), jnp.float32)
    for student, teacher in zip(student_features, teacher_features, strict=True):
        student, teacher = functional.comparable_entries(student, teacher)
        active = teacher > 0
        hinge = nn.relu(margin + jnp.where(active, -student, student))
        loss = 0.5 * loss + _SCALE * jnp.sum(jnp.square(hinge), axis=(1, 2, 3))
    return loss


class ActivationBoundaries(nn.Module):
    """`ab_loss` after connectors: a `Regressor` for each layer whose shapes differ.

    The published training has two stages, the boundaries and then cross-entropy with KD; here the
    loss is added to them. Batch norm in the connectors uses the statistics of the batch, so the
    loss needs the whole batch.

    Attributes:
      margin: as for `ab_loss`.
      connect_all: train a connector for layers of equal shape, too: for a student whose features
        come after a ReLU, where inactive units have no gradient.
    """

    margin: float = 1.0
    connect_all: bool = False

    @nn.compact
    def __call__(self, student: list[jax.Array], teacher: list[jax.Array]) -> jax.Array:
        """Returns the loss of lists of features [B,H,W,C], float32 [B].

        Raises:
          UserError: if a layer has no regressor, see `Regressor`.
        """
        connected = []
        for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
            x = functional.promote_to_float32(s)
            if self.connect_all or s.shape != t.shape:
                x = Regressor(t.shape[1:], name=f"connector_{i}")(x)
            connected.append(x)
        return ab_loss(connected, teacher, self.margin)
