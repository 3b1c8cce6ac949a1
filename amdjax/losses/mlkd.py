"""Multi-level logit distillation: Jin, Wang & Lin, CVPR 2023."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.kd import kd_loss

_STRONG_TEMPERATURES = (3.0, 5.0)  # besides the base temperature
_WEAK_TEMPERATURES = (2.0, 6.0)


def mlkd_loss(
    student_logits: jax.Array,
    strong_student_logits: jax.Array,
    teacher_logits: jax.Array,
    strong_teacher_logits: jax.Array,
    temperature: float = 4.0,
    standardize: bool = False,
) -> jax.Array:
    """Returns the distillation of logits, of correlations of classes and of those of samples.

    With S = (T, 3, 5, 2, 6), P the softmax [B,C] of the weakly augmented view at a temperature and
    KD as in `kd_loss`, averaged over the batch:

    `r sum_S KD(weak) + sum_(T,3,5) KD(strong) + sum_(2,6) KD(weak)
    + q sum_S |P_T^T P_T - P_S^T P_S|^2 / C + r sum_S |P_T P_T^T - P_S P_S^T|^2 / B`.

    r is the fraction of samples whose largest probability by the teacher is at most the median of
    the batch, q the fraction of classes whose summed probability is at most the median of the
    classes. This is the published code, in which the masks multiply losses that are means already,
    and the last two temperatures of the strong view use the weak one; the paper selects samples and
    classes by them.

    Args:
      student_logits: float [B,C], of the weakly augmented view.
      strong_student_logits: float [B,C], of the strongly augmented view.
      teacher_logits: float [B,C], of the weak view; receives no gradient.
      strong_teacher_logits: float [B,C], of the strong view; receives no gradient.
      temperature: T > 0.
      standardize: as for `kd_loss`, in KD alone.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the logits have different shapes.
    """
    weak_student, weak_teacher = functional.comparable_entries(student_logits, teacher_logits)

    def distill(student: jax.Array, teacher: jax.Array, *temperatures: float) -> jax.Array:
        values = [kd_loss(student, teacher, t, standardize=standardize) for t in temperatures]
        return jnp.mean(sum(values))

    confidence = jax.nn.softmax(weak_teacher)
    sample_fraction = _fraction_up_to_median(jnp.max(confidence, axis=1))
    class_fraction = _fraction_up_to_median(jnp.sum(confidence, axis=0))
    strong = (temperature, *_STRONG_TEMPERATURES)
    everything = (*strong, *_WEAK_TEMPERATURES)
    loss = (
        sample_fraction * distill(weak_student, weak_teacher, *everything)
        + distill(strong_student_logits, strong_teacher_logits, *strong)
        + distill(weak_student, weak_teacher, *_WEAK_TEMPERATURES)
    )
    for t in everything:
        student, teacher = (jax.nn.softmax(x / t) for x in (weak_student, weak_teacher))
        batch, num_classes = student.shape
        loss += class_fraction * _square_distance(student.T, teacher.T) / num_classes
        loss += sample_fraction * _square_distance(student, teacher) / batch
    return loss


def _fraction_up_to_median(values: jax.Array) -> jax.Array:
    return jnp.mean((values <= jnp.median(values)).astype(jnp.float32))


def _square_distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns `|X X^T - Y Y^T|^2` of matrices [n,m]."""
    ours, theirs = (
        jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST) for x in (student, teacher)
    )
    return jnp.sum(jnp.square(ours - theirs))
