"""Attention transfer: Zagoruyko & Komodakis, Paying more attention to attention, ICLR 2017."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def at_loss(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the squared distance of the normalised attention maps of a layer, for each sample.

    `mean_hw (Q_S / |Q_S| - Q_T / |Q_T|)^2` with `Q = sum_c f^2` (p = 2; Eq. 2, with the mean over
    positions as in the authors' code).

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient. The larger map is average-pooled.
        Features in bfloat16 are cast to float32 first.

    Returns:
      float32 [B].

    Raises:
      UserError: if the larger map is not a whole multiple of the smaller.
    """
    student, teacher = functional.unit_attention_maps(student_feature, teacher_feature)
    return jnp.mean(jnp.square(student - teacher), axis=(1, 2))
