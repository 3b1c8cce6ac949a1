"""Normalized knowledge distillation: Yang et al., ICCV 2023."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def nkd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> jax.Array:
    """Returns the cross-entropies of target and normalized non-target classes, for each sample.

    `-p_y log q_y - gamma T^2 sum_(c != y) n_c log m_c` (Eq. 8): p and q are the softmax of teacher
    and student at temperature 1, n and m their softmax at temperature T over the classes without
    the true class y. Unlike a KL divergence, it is not zero for equal logits.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      labels: int [B].
      gamma: weight of the non-target classes.
      temperature: T > 0, of the non-target classes.

    Returns:
      float32 [B], in nats.

    Raises:
      UserError: if the logits have different shapes.
    """
    is_target = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)
    student, teacher = functional.comparable_entries(student_logits, teacher_logits)

    def log_others(logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(jnp.where(is_target, -jnp.inf, logits / temperature))

    target = jnp.where(is_target, jax.nn.softmax(teacher) * jax.nn.log_softmax(student), 0.0)
    # The inner `where` keeps 0 * inf out of the gradient.
    others = jnp.exp(log_others(teacher)) * jnp.where(is_target, 0.0, log_others(student))
    return -jnp.sum(target + gamma * temperature**2 * others, axis=-1)
