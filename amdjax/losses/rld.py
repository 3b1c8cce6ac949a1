"""Refined logit distillation: Sun et al., Knowledge distillation with refined logits, ICCV 2025."""

import jax
import jax.numpy as jnp
import optax

from amdjax.losses import functional
from amdjax.losses.kd import standardize_logits

_MASKED = -1e9  # finite: a row whose classes are all masked becomes uniform, and its loss zero


def rld_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    temperature: float = 4.0,
    target_temperature: float = 4.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
    standardize: bool = False,
) -> jax.Array:
    """Returns the KL divergences of confidence and masked classes, for each sample.

    `alpha U^2 KL(b_T || b_S) + beta T^2 KL(o_T || o_S)`. b is the binary distribution of one class
    against all others at temperature U: the true class for the student, the most probable class
    for the teacher, so that a wrong teacher passes on its confidence alone. o is the softmax at
    temperature T over the classes that the teacher ranks below the true class; it is zero where
    there are none.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      labels: int [B].
      temperature: T > 0.
      target_temperature: U > 0.
      target_weight: alpha.
      other_weight: beta.
      standardize: compare logits of zero mean and unit deviation; see `standardize_logits`.

    Returns:
      float32 [B], in nats times the squares of the temperatures.

    Raises:
      UserError: if the logits have different shapes.
    """
    student, teacher = functional.comparable_entries(student_logits, teacher_logits)
    if standardize:
        student, teacher = standardize_logits(student), standardize_logits(teacher)

    def log_binary(logits: jax.Array, classes: jax.Array) -> jax.Array:
        is_class = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
        return functional.log_binary(jax.nn.log_softmax(logits / target_temperature), is_class)

    target = optax.losses.kl_divergence_with_log_targets(
        log_binary(student, labels), log_binary(teacher, jnp.argmax(teacher, axis=-1))
    )
    masked = teacher >= jnp.take_along_axis(teacher, labels[:, None], axis=-1)

    def log_others(logits: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(jnp.where(masked, _MASKED, logits / temperature))

    others = optax.losses.kl_divergence_with_log_targets(log_others(student), log_others(teacher))
    return target_weight * target_temperature**2 * target + other_weight * temperature**2 * others
