"""Decoupled knowledge distillation: Zhao et al., CVPR 2022."""

import jax
import jax.numpy as jnp
import optax

from amdjax.losses import functional
from amdjax.losses.kd import scale_logits


def dkd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
    standardize: bool = False,
) -> jax.Array:
    """Returns the weighted KL divergences of target and non-target classes, for each sample.

    `T^2 (alpha KL(b_T || b_S) + beta KL(o_T || o_S))` (Eq. 7): b is the binary distribution of the
    target class against all others, o the distribution over the non-target classes, both from the
    softmax at temperature T.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      labels: int [B].
      temperature: T > 0.
      target_weight: alpha.
      other_weight: beta.
      standardize: compare logits of zero mean and unit deviation; see `standardize_logits`.

    Returns:
      float32 [B], in nats times T^2.

    Raises:
      UserError: if the logits have different shapes.
    """
    student_logits, teacher_logits = functional.comparable_entries(student_logits, teacher_logits)
    is_target = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)

    def parts(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p = jax.nn.log_softmax(scale_logits(logits, temperature, standardize))
        binary = functional.log_binary(log_p, is_target)
        return binary, jnp.where(is_target, 0.0, log_p - binary[:, 1:])

    student, student_others = parts(student_logits)
    teacher, teacher_others = parts(teacher_logits)
    target = optax.losses.kl_divergence_with_log_targets(student, teacher)
    weight = jnp.where(is_target, 0.0, jnp.exp(teacher_others))
    others = jnp.sum(weight * (teacher_others - student_others), axis=-1)
    return temperature**2 * (target_weight * target + other_weight * others)
