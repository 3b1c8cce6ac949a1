"""Relational knowledge distillation: Park, Kim, Lu & Cho, CVPR 2019."""

import jax
import jax.numpy as jnp
import optax

from amdjax.losses import functional

_SQUARE_EPS = 1e-12  # the slope of the square root is infinite at zero


def rkd_loss(
    student: jax.Array,
    teacher: jax.Array,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> jax.Array:
    """Returns the difference of distances and angles among the embeddings of the whole batch.

    `w_d * huber(d_S, d_T) + w_a * huber(a_S, a_T)` (Eqs. 4 to 8), each a mean over all entries.
    d are the B^2 distances of pairs, divided by the mean of the positive ones, and a the B^3
    cosines of the angles of triples, 4 GiB for B = 1,024; huber is quadratic below 1 and linear
    above.

    Args:
      student: embedding, float [B,D], the whole batch.
      teacher: embedding, float [B,D']; receives no gradient.
      distance_weight: w_d.
      angle_weight: w_a.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the numbers of images differ.
    """
    student, teacher = functional.comparable(student, teacher)
    distance = optax.huber_loss(_distances(student), _distances(teacher)).mean()
    angle = optax.huber_loss(_angles(student), _angles(teacher)).mean()
    return distance_weight * distance + angle_weight * angle


def _distances(x: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
    apart = ~jnp.eye(len(x), dtype=bool)
    distance = jnp.where(apart, jnp.sqrt(jnp.maximum(square, _SQUARE_EPS)), 0.0)
    positive = apart & (square > 0)
    mean = jnp.sum(distance * positive) / jnp.maximum(jnp.sum(positive), 1)
    return distance / jnp.maximum(mean, _SQUARE_EPS)


def _angles(x: jax.Array) -> jax.Array:
    directions = functional.l2_normalize(x[None] - x[:, None], axis=-1)
    return jnp.einsum("ijd,ikd->ijk", directions, directions, precision=jax.lax.Precision.HIGHEST)
