"""DIST: Huang et al., Knowledge distillation from a stronger teacher, NeurIPS 2022."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def dist_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: float = 4.0,
    inter_weight: float = 2.0,
    intra_weight: float = 2.0,
) -> jax.Array:
    """Returns how badly the two sides' probabilities are correlated. It sees all samples.

    `T^2 (beta mean_b (1 - r(p_b, q_b)) + gamma mean_c (1 - r(p_c, q_c)))` (Eqs. 8 to 10), r being
    Pearson's correlation: over the classes for each sample (inter-class), and over the samples for
    each class (intra-class), of the softmax at temperature T.

    Args:
      student_logits: float [B,C], the whole batch.
      teacher_logits: float [B,C]; receives no gradient.
      temperature: T > 0.
      inter_weight: beta.
      intra_weight: gamma.

    Returns:
      float32 scalar.
    """
    student = jax.nn.softmax(functional.promote_to_float32(student_logits) / temperature)
    teacher = jax.nn.softmax(
        functional.promote_to_float32(jax.lax.stop_gradient(teacher_logits)) / temperature
    )

    def distance(axis: int) -> jax.Array:
        s, t = (
            functional.l2_normalize(x - x.mean(axis, keepdims=True), axis=axis)
            for x in (student, teacher)
        )
        # Of unit vectors, 1 - <s, t> is half their squared distance, which cancels less.
        return jnp.mean(0.5 * jnp.sum(jnp.square(s - t), axis=axis))

    return temperature**2 * (inter_weight * distance(1) + intra_weight * distance(0))
