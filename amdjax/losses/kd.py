"""Knowledge distillation of logits: Hinton, Vinyals & Dean, arXiv 1503.02531, 2015."""

import jax
import optax

from amdjax.errors import unknown_name
from amdjax.losses import functional

REDUCTIONS = ("batchmean", "mean")


def kd_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: float | jax.Array = 4.0,
    standardize: bool = False,
    reduction: str = "batchmean",
) -> jax.Array:
    """Returns the temperature-scaled KL(teacher || student) for each sample.

    `T^2 * sum_c p_c * (log p_c - log q_c)` with `p = softmax(teacher / T)` and
    `q = softmax(student / T)`.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      temperature: T > 0, a scalar.
      standardize: compare logits of zero mean and unit deviation; see `standardize_logits`.
      reduction: over the classes, with the names of PyTorch's `KLDivLoss`. "batchmean" is the sum,
        which the weights in the papers refer to. "mean", PyTorch's default, divides by C as well
        and is C times weaker; one published repository of the AMD authors' laboratory uses it.

    Returns:
      float32 [B], in nats times T^2.

    Raises:
      UserError: on an unknown reduction, or logits of different shapes.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name("reduction of the loss kd", reduction, REDUCTIONS)

    student, teacher = (
        jax.nn.log_softmax(scale_logits(logits, temperature, standardize))
        for logits in functional.comparable_entries(student_logits, teacher_logits)
    )
    loss = temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)
    return loss / student.shape[-1] if reduction == "mean" else loss


def scale_logits(
    logits: jax.Array, temperature: float | jax.Array, standardize: bool = False
) -> jax.Array:
    """Returns logits [B,C] divided by a temperature, float32.

    Args:
      logits: float [B,C].
      temperature: T > 0.
      standardize: see `standardize_logits`.
    """
    logits = functional.promote_to_float32(logits)
    return (standardize_logits(logits) if standardize else logits) / temperature


def standardize_logits(logits: jax.Array) -> jax.Array:
    """Returns `(z - mean_c z) / (std_c z + 1e-7)`, with the unbiased deviation (C - 1).

    Sun et al., Logit standardization in knowledge distillation, CVPR 2024, Eq. 12: the student
    need not match the magnitude of the teacher's logits.

    Args:
      logits: float [B,C].

    Returns:
      float [B,C]; zeros where all logits are equal.
    """
    centered = logits - logits.mean(axis=-1, keepdims=True)
    deviation = functional.safe_norm(centered, axis=-1) / max(logits.shape[-1] - 1, 1) ** 0.5
    return centered / (deviation + 1e-7)
