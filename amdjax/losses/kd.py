"""Knowledge distillation of logits: Hinton, Vinyals & Dean, arXiv 1503.02531, 2015."""

import jax
import jax.numpy as jnp

from amdjax.losses import maps


def kd_loss(
    student_logits: jax.Array, teacher_logits: jax.Array, temperature: float = 4.0
) -> jax.Array:
    """Returns the temperature-scaled divergence of student from teacher, for each sample.

    `T^2 * sum_c p_c * (log p_c - log q_c)` with `p = softmax(teacher / T)`,
    `q = softmax(student / T)`: the sum over classes (PyTorch's "batchmean"), not the mean, which
    would be C times weaker.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      temperature: T > 0.

    Returns:
      float32 [B], in nats times T^2.
    """
    student = jax.nn.log_softmax(maps.widen(student_logits) / temperature)
    teacher_logits = maps.widen(jax.lax.stop_gradient(teacher_logits))
    teacher = jax.nn.log_softmax(teacher_logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
