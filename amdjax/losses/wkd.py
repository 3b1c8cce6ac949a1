"""Wasserstein distillation: Lv, Yang & Li, Wasserstein distance rivals KL, NeurIPS 2024."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError, unknown_name
from amdjax.losses import functional
from amdjax.losses.connectors import BatchStatisticsNorm, Regressor, conv

PROJECTORS = ("regressor", "bottleneck", "none")
_EPS = 1e-8  # added to costs and to Sinkhorn's divisors, as published


def class_cost(class_weights: jax.Array, sharpening: float = 1.0) -> jax.Array:
    """Returns the transport costs between classes from the weights of a classifier.

    `1 - exp(-k d_ij)` with the cosine distance `d_ij = 1 - cos(w_i, w_j)` of the weights of two
    classes, or `d_ij` itself for k = 0.

    Args:
      class_weights: float [D,C], one column for each class; receives no gradient.
      sharpening: k >= 0.

    Returns:
      float32 [C,C], symmetric.
    """
    weights = functional.l2_normalize(
        functional.promote_to_float32(jax.lax.stop_gradient(class_weights)), axis=0
    )
    distance = 1.0 - jnp.matmul(weights.T, weights, precision=jax.lax.Precision.HIGHEST)
    return -jnp.expm1(-sharpening * distance) if sharpening else distance


def wkd_logit_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    cost: jax.Array,
    temperature: float = 8.0,
    gamma: float = 600.0,
    regularization: float = 0.05,
    iterations: int = 10,
) -> jax.Array:
    """Returns the cross-entropy of the target and the transport of the others, for each sample.

    `-p_y log q_y + gamma W`: p and q are the softmax of teacher and student at temperature 1, y is
    the true class. W is the entropic Wasserstein distance of the softmax of teacher and student
    over the other classes at temperature T, `sum_ij u_i exp(-D_ij / r) v_j D_ij` with u and v from
    Sinkhorn's iterations. The gradient is that of the iterations.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      labels: int [B].
      cost: float [C,C], D, of a transport from class i to class j; negative values count as 0, and
        it receives no gradient. See `class_cost`.
      temperature: T > 0, of the other classes.
      gamma: weight of the transport.
      regularization: r > 0, of the entropy of the transport plan.
      iterations: number of Sinkhorn's iterations.

    Returns:
      float32 [B].

    Raises:
      UserError: if the logits have different shapes.
    """
    student, teacher = functional.comparable_entries(student_logits, teacher_logits)
    cost = nn.relu(functional.promote_to_float32(jax.lax.stop_gradient(cost))) + _EPS
    is_target = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)
    target = jnp.where(is_target, jax.nn.softmax(teacher) * jax.nn.log_softmax(student), 0.0)
    # The true class stays in the arrays with a probability of zero, which keeps it out of the
    # transport: so one kernel [C,C] serves the whole batch.
    source, sink = (
        jax.nn.softmax(jnp.where(is_target, -jnp.inf, logits / temperature))
        for logits in (student, teacher)
    )
    transport = _sinkhorn_cost(
        source, sink, (~is_target).astype(source.dtype), cost, regularization, iterations
    )
    return gamma * transport - jnp.sum(target, axis=-1)


def wkd_class_weight_loss(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    class_weights: jax.Array,
    temperature: float = 8.0,
    gamma: float = 600.0,
    regularization: float = 0.05,
    iterations: int = 10,
    sharpening: float = 1.0,
) -> jax.Array:
    """Returns `wkd_logit_loss` with the cost of the teacher's classifier, for each sample.

    Args:
      student_logits: float [B,C].
      teacher_logits: float [B,C]; receives no gradient.
      labels: int [B].
      class_weights: float [D,C], the teacher's, for `class_cost`; receives no gradient.
      temperature: as for `wkd_logit_loss`, like the next three.
      gamma: weight of the transport.
      regularization: of the entropy of the transport plan.
      iterations: number of Sinkhorn's iterations.
      sharpening: as for `class_cost`.

    Returns:
      float32 [B].
    """
    cost = class_cost(class_weights, sharpening)
    return wkd_logit_loss(
        student_logits, teacher_logits, labels, cost, temperature, gamma, regularization, iterations
    )


def _sinkhorn_cost(
    source: jax.Array,
    sink: jax.Array,
    support: jax.Array,
    cost: jax.Array,
    regularization: float,
    iterations: int,
) -> jax.Array:
    """Returns the transport costs [B] between probabilities [B,C] on classes of support 1."""
    kernel = jnp.exp(-cost / regularization)

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    def iterate(_: int, scalings: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        u, _ = scalings
        v = sink / (dot(u, kernel) + _EPS)
        return source / (dot(v, kernel.T) + _EPS), v

    u = support / jnp.sum(support, axis=-1, keepdims=True)
    u, v = jax.lax.fori_loop(0, iterations, iterate, (u, u))
    return jnp.sum(u * dot(v, (kernel * cost).T), axis=-1)


def wkd_feature_loss(
    student_feature: jax.Array,
    teacher_feature: jax.Array,
    grid: int = 1,
    ratio: float = 2.0,
    eps: float = 1e-5,
) -> jax.Array:
    """Returns the Wasserstein distance of the channels' normal distributions, for each sample.

    `sum_c ratio (mu_S - mu_T)^2 + (delta_S - delta_T)^2`, averaged over the grid^2 cells of a map,
    with the mean mu and the deviation `delta = sqrt(var + eps)` of a channel over the positions of
    a cell (unbiased variance): the distance of Gaussians with diagonal covariance.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C]; receives no gradient.
      grid: number of cells in each direction, see `functional.adaptive_cells`; every cell needs at
        least two positions.
      ratio: weight of the means against the deviations.
      eps: added to the variances.

    Returns:
      float32 [B].

    Raises:
      UserError: if the channels or the numbers of images differ, or if a cell has one position.
    """
    student, teacher = functional.comparable(student_feature, teacher_feature)
    functional.check_channels(
        student, teacher, "WKD", "set config.losses.wkd_f.projector=regressor"
    )

    def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        cells = list(functional.adaptive_cells(x, grid, grid))
        for cell in cells:
            if cell.shape[1] * cell.shape[2] < 2:
                raise UserError(
                    f"a grid of {grid}x{grid} cells on a {x.shape[1]}x{x.shape[2]} feature map has "
                    "cells of one position, which have no variance: choose a smaller grid"
                )
        means = jnp.stack([cell.mean((1, 2)) for cell in cells], axis=1)
        variances = jnp.stack([cell.var((1, 2), ddof=1) for cell in cells], axis=1)
        return means, jnp.sqrt(variances + eps)

    (mu_s, delta_s), (mu_t, delta_t) = moments(student), moments(teacher)
    distance = ratio * jnp.square(mu_s - mu_t) + jnp.square(delta_s - delta_t)
    return jnp.sum(distance, axis=-1).mean(axis=-1)


class WassersteinFeature(nn.Module):
    """`wkd_feature_loss` after a trained projector to the shape of the teacher's feature.

    Attributes:
      projector: "regressor" (a convolution to the teacher's size and channels), "bottleneck" (1x1,
        3x3 and 1x1 convolutions without functions between them, which keep the size), both followed
        by batch norm and ReLU, or "none". Batch norm uses the statistics of the batch, so the loss
        needs the whole batch.
      width: channels inside the bottleneck.
      grid: as for `wkd_feature_loss`, like the next two.
      ratio: weight of the means against the deviations.
      eps: added to the variances.
    """

    projector: str = "regressor"
    width: int = 256
    grid: int = 1
    ratio: float = 2.0
    eps: float = 1e-5

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Returns the loss of features [B,H,W,C] and [B,H',W',C'], float32 [B].

        Raises:
          UserError: on an unknown projector, or as `wkd_feature_loss` and `Regressor`.
        """
        if self.projector not in PROJECTORS:
            raise unknown_name("projector of the loss wkd_f", self.projector, PROJECTORS)
        student = functional.promote_to_float32(student_feature)
        if self.projector == "regressor":
            student = nn.relu(Regressor(teacher_feature.shape[1:], name="regressor")(student))
        elif self.projector == "bottleneck":
            x = conv(self.width, (1, 1), name="conv1")(student)
            x = conv(self.width, (3, 3), padding=1, name="conv2")(x)
            x = conv(teacher_feature.shape[-1], (1, 1), name="conv3")(x)
            student = nn.relu(BatchStatisticsNorm(name="bn")(x))
        return wkd_feature_loss(student, teacher_feature, self.grid, self.ratio, self.eps)
