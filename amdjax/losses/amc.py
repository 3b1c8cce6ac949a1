"""Angular-margin contrastive loss: Choi, Som & Turaga, AMC-Loss, CVPR workshops 2020.

Both losses compare sample i of the first half of the batch with sample i of the second half
("doubly stochastic" pairs: the batch is a random one), which costs O(B) and not O(B^2).
"""

import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional

_EPS = 1e-7  # the published clip of the inner product: arccos has an infinite slope at 1


def amc_loss(embedding: jax.Array, labels: jax.Array, margin: float = 0.5) -> jax.Array:
    """Returns the geodesic contrastive loss of a batch. It sees all samples.

    With `d = arccos <z_i, z_j>` of the unit embeddings, a pair of one class costs `d^2` and a pair
    of two classes `max(0, margin - d)^2`; the mean over the B/2 pairs is returned.

    Args:
      embedding: float [B,D], the whole batch; it is normalised here.
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
    cosine = jnp.clip(jnp.sum(first * second, axis=-1), -1.0 + _EPS, 1.0 - _EPS)
    distance = jnp.arccos(cosine)
    return _contrast(jnp.square(distance), distance, labels, margin)


def contrastive_loss(embedding: jax.Array, labels: jax.Array, margin: float = 1.0) -> jax.Array:
    """Returns the Euclidean contrastive loss of a batch. It sees all samples.

    With `d = |x_i - x_j|` of the embeddings as they are, a pair of one class costs `d^2` and a
    pair of two classes `max(0, margin - d)^2`; the mean over the B/2 pairs is returned
    (Hadsell, Chopra & LeCun, CVPR 2006, without its factor 1/2; the rival in the AMC paper).

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
        raise UserError(f"pairs need an even batch size, not {x.shape[0]}")
    half = x.shape[0] // 2
    return x[:half], x[half:]
