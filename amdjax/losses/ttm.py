"""Transformed teacher matching: Zheng & Yang, ICLR 2024."""

import jax
import jax.numpy as jnp
import optax

from amdjax.losses import functional


def ttm_loss(student_logits: jax.Array, teacher_logits: jax.Array, gamma: float = 0.1) -> jax.Array:
    """Returns the KL divergence of student from the power-transformed teacher, for each sample.

    `sum_c q_c (log q_c - log p_S,c)` with `q_c = p_T,c^gamma / sum_k p_T,k^gamma`: the teacher
    has the temperature 1 / gamma, the student the temperature 1.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      gamma: exponent of the teacher's probabilities, above 0.

    Returns:
      float32 [B], in nats.

    Raises:
      UserError: if the logits have different shapes.
    """
    student, teacher = functional.comparable_entries(student_logits, teacher_logits)
    # The softmax of gamma z, not a power of p, which underflows for large logits.
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(student), jax.nn.log_softmax(gamma * teacher)
    )


def wttm_loss(
    student_logits: jax.Array, teacher_logits: jax.Array, gamma: float = 0.2
) -> jax.Array:
    """Returns `ttm_loss`, weighted with the smoothness of the teacher, for each sample.

    The weight of a sample is its power sum `U = sum_c p_T,c^gamma`: 1 for a one-hot teacher,
    `C^(1 - gamma)` for a uniform one.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      gamma: exponent of the teacher's probabilities, above 0.

    Returns:
      float32 [B], in nats.

    Raises:
      UserError: if the logits have different shapes.
    """
    _, teacher = functional.comparable_entries(student_logits, teacher_logits)
    log_power_sum = jax.nn.logsumexp(gamma * teacher, axis=-1)
    log_power_sum -= gamma * jax.nn.logsumexp(teacher, axis=-1)
    return jnp.exp(log_power_sum) * ttm_loss(student_logits, teacher, gamma)
