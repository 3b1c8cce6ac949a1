"""Angular-margin contrastive loss: Choi, Som & Turaga, AMC-Loss, CVPR workshops 2020.

Both losses compare sample i of the first half of the batch with sample i of the second half, at a
cost of O(B) instead of O(B^2): the pairs are random because the batch is ("doubly stochastic").
"""

import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional


def amc_loss(embedding: jax.Array, labels: jax.Array, margin: float = 0.5) -> jax.Array:
    """Returns the geodesic contrastive loss of the whole batch.

    The mean over B/2 pairs of `d^2` for equal classes and `max(0, margin - d)^2` for different
    classes, with `d = arccos <z_i, z_j>` of the unit embeddings.

    Args:
      embedding: float [B,D], the whole batch, of any norm.
      labels: int [B], true or predicted classes.
      margin: in radians.

    Returns:
      float32 scalar, in radians squared.

    Raises:
      UserError: if B is odd.
    """
    first, second = _halves(
        functional.l2_normalize(functional.promote_to_float32(embedding), axis=-1)
    )
    distance = jnp.arccos(functional.clip_cosine(jnp.sum(first * second, axis=-1)))
    return _contrast(jnp.square(distance), distance, labels, margin)


def contrastive_loss(embedding: jax.Array, labels: jax.Array, margin: float = 1.0) -> jax.Array:
    """Returns the Euclidean contrastive loss of the whole batch.

    The mean over B/2 pairs of `d^2` for equal classes and `max(0, margin - d)^2` for different
    classes, with `d = |x_i - x_j|` of the embeddings without normalisation (Hadsell, Chopra &
    LeCun, CVPR 2006, without its factor 1/2; the baseline in the AMC paper).

    Args:
      embedding: float [B,D], the whole batch.
      labels: int [B], true or predicted classes.
      margin: in units of the embedding.

    Returns:
      float32 scalar.

    Raises:
      UserError: if B is odd.
    """
    first, second = _halves(functional.promote_to_float32(embedding))
    squared = jnp.sum(jnp.square(first - second), axis=-1)
    distance = jnp.sqrt(jnp.maximum(squared, 1e-12))
    return _contrast(squared, distance, labels, margin)


def _contrast(
    squared: jax.Array, distance: jax.Array, labels: jax.Array, margin: float
) -> jax.Array:
    same = jnp.equal(*_halves(labels))
    hinge = jnp.square(jnp.maximum(0.0, margin - distance))
    return jnp.mean(jnp.where(same, squared, hinge))


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if x.shape[0] % 2:
        raise UserError(f"contrastive pairs need an even batch size, not {x.shape[0]}")
    half = x.shape[0] // 2
    return x[:half], x[half:]
