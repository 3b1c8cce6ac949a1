"""Neuron selectivity transfer: Huang & Wang, Like what you like, arXiv 1707.01219, 2017."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def nst_loss(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the squared maximum mean discrepancy of the channels of a layer, for each sample.

    `mean k(t, t) + mean k(s, s) - 2 mean k(s, t)` over all pairs of channels, with the kernel
    `k(x, y) = <x, y>^2` of channels scaled to unit L2 norm over the positions (Eq. 6, polynomial
    kernel).

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient. The larger map is average-pooled.

    Returns:
      float32 [B].

    Raises:
      UserError: if the larger map is not a whole multiple of the smaller.
    """
    student, teacher = (
        functional.l2_normalize(feature.reshape(feature.shape[0], -1, feature.shape[-1]), axis=1)
        for feature in functional.comparable_maps(student_feature, teacher_feature)
    )

    def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
        products = jnp.einsum("bpc,bpd->bcd", x, y, precision=jax.lax.Precision.HIGHEST)
        return jnp.mean(jnp.square(products), axis=(1, 2))

    return kernel(teacher, teacher) + kernel(student, student) - 2.0 * kernel(student, teacher)
