"""Similarity preserving: Tung & Mori, Similarity-preserving knowledge distillation, ICCV 2019."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def sp_loss(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the squared distance of the similarity matrices of the whole batch.

    `sum_ij (G_S - G_T)_ij^2 / B^2`, with `G = F F^T` of the flattened features `F` [B,HWC] and
    each row of G scaled to unit L2 norm (Eqs. 1 to 4).

    Args:
      student_feature: float [B,...], the whole batch.
      teacher_feature: float [B,...], of any shape after B; receives no gradient.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the numbers of images differ.
    """

    def similarity(feature: jax.Array) -> jax.Array:
        flat = feature.reshape(feature.shape[0], -1)
        # The default precision of a matrix product is below float32 on GPU and TPU.
        gram = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)
        return functional.l2_normalize(gram, axis=1)

    student, teacher = functional.comparable(student_feature, teacher_feature)
    difference = similarity(student) - similarity(teacher)
    return jnp.sum(jnp.square(difference)) / difference.size
