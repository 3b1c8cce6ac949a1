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
    eps: float = 1e-8,
) -> jax.Array:
    """Returns the weighted inter-class and intra-class correlation distances of the whole batch.

    `T^2 (beta mean_b (1 - r(p_b, q_b)) + gamma mean_c (1 - r(p_c, q_c)))` (Eqs. 8 to 10) with
    Pearson's correlation r of the softmax probabilities at temperature T: over the classes for
    each sample (inter-class), and over the samples for each class (intra-class). As in the
    published code, `r(a, b) = <a, b> / (|a| |b| + eps)` of the centred a and b: without eps, a
    class whose probabilities are all tiny would count as much as any other.

    Args:
      student_logits: float [B,C], the whole batch.
      teacher_logits: float [B,C]; receives no gradient.
      temperature: T > 0.
      inter_weight: beta.
      intra_weight: gamma.
      eps: added to the denominator of r; 0: none.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the logits have different shapes.
    """
    student, teacher = (
        jax.nn.softmax(logits / temperature)
        for logits in functional.comparable_entries(student_logits, teacher_logits)
    )

    def distance(axis: int) -> jax.Array:
        s, t = (x - x.mean(axis, keepdims=True) for x in (student, teacher))
        norms = (functional.safe_norm(s, axis) * functional.safe_norm(t, axis)).squeeze(axis)
        s, t = (functional.l2_normalize(x, axis=axis) for x in (s, t))
        # Without eps, 1 - r is half the squared distance of the unit vectors, which cancels less.
        without_eps = 0.5 * jnp.sum(jnp.square(s - t), axis=axis)
        return jnp.mean((without_eps * norms + eps) / (norms + eps))

    return temperature**2 * (inter_weight * distance(1) + intra_weight * distance(0))
