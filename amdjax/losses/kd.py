"""Knowledge distillation of logits: Hinton, Vinyals & Dean, arXiv 1503.02531, 2015."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional


def kd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: float = 4.0,
    standardize: bool = False,
) -> jax.Array:
    """Returns the temperature-scaled divergence of student from teacher, for each sample.

    `T^2 * sum_c p_c * (log p_c - log q_c)` with `p = softmax(teacher / T)`,
    `q = softmax(student / T)`: the sum over classes (PyTorch's "batchmean"), not the mean, which
    would be C times weaker.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      temperature: T > 0.
      standardize: compare logits of zero mean and unit deviation; see `standardize_logits`.

    Returns:
      float32 [B], in nats times T^2.
    """

    def log_probabilities(logits: jax.Array) -> jax.Array:
        logits = functional.promote_to_float32(logits)
        return jax.nn.log_softmax(
            (standardize_logits(logits) if standardize else logits) / temperature
        )

    student = log_probabilities(student_logits)
    teacher = log_probabilities(jax.lax.stop_gradient(teacher_logits))
    return temperature**2 * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)


def standardize_logits(logits: jax.Array) -> jax.Array:
    """Returns `(z - mean_c z) / (std_c z + 1e-7)`, the deviation with C - 1 in its divisor.

    Sun et al., Logit standardization in knowledge distillation, CVPR 2024, Eq. 12: the student
    need not have logits as large as the teacher's.

    Args:
      logits: float [B,C].

    Returns:
      float [B,C]; zeros where all logits are equal.
    """
    centered = logits - logits.mean(axis=-1, keepdims=True)
    deviation = functional.safe_norm(centered, axis=-1) / max(logits.shape[-1] - 1, 1) ** 0.5
    return centered / (deviation + 1e-7)
