"""Factor transfer: Kim, Park & Kwak, NeurIPS 2018; the distance, without the paraphraser."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def ft_loss(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the mean absolute difference of the unit factors of a layer, for each sample.

    `mean_hw |F_S / |F_S| - F_T / |F_T||` with the factor `F = sum_c f^2`, the L1 distance
    of attention maps, as in the common benchmark code.

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
    return jnp.mean(functional.abs_zero_grad(student - teacher), axis=(1, 2))
