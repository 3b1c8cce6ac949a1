"""Softmax losses with an angular margin: SphereFace, CosFace, ArcFace.

The logits are cosines between the embedding and the columns of the classifier's kernel, scaled to
unit norm and without a bias; in training, a margin lowers the logit of the true class. Predictions
use the logits without a margin, `sphere_logits` or `cosine_logits`.
"""

import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.ce import cross_entropy


def sphere_logits(embedding: jax.Array, class_weights: jax.Array) -> jax.Array:
    """Returns `|x| cos theta` [B,C] of embeddings [B,D] and the classifier's kernel [D,C]."""
    weights = functional.l2_normalize(functional.promote_to_float32(class_weights), axis=0)
    return jnp.matmul(
        functional.promote_to_float32(embedding), weights, precision=jax.lax.Precision.HIGHEST
    )


def cosine_logits(embedding: jax.Array, class_weights: jax.Array, scale: float = 64.0) -> jax.Array:
    """Returns `scale * cos theta` [B,C] of embeddings [B,D] and the classifier's kernel [D,C]."""
    return scale * sphere_logits(
        functional.l2_normalize(functional.promote_to_float32(embedding), axis=1), class_weights
    )


def a_softmax_loss(
    embedding: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    step: jax.Array,
    margin: int = 4,
    base: float = 1000.0,
    decay: float = 0.12,
    least: float = 5.0,
) -> jax.Array:
    """Returns the angular softmax loss, annealed from cross-entropy, for each sample.

    Cross-entropy of the logits `|x| cos theta_j`, for the true class
    `|x| (l cos theta + psi) / (1 + l)` with `psi = (-1)^k cos(m theta) - 2 k`,
    `k = floor(m theta / pi)` and `l = max(least, base / (1 + decay * step))` (Liu et al.,
    SphereFace, CVPR 2017, Eq. 7; the annealing of the authors' code).

    Args:
      embedding: float [B,D].
      class_weights: float [D,C].
      labels: int [B].
      step: int scalar, the number of completed steps.
      margin: m, an integer of at least 1.
      base: l at step 0.
      decay: rate at which l falls.
      least: lower bound of l.

    Returns:
      float32 [B], in nats.
    """
    logits = sphere_logits(embedding, class_weights)
    norm = functional.safe_norm(functional.promote_to_float32(embedding), axis=1)
    cosine = functional.clip_cosine(_of_label(logits / norm, labels))
    angle = margin * jnp.arccos(cosine)
    k = jnp.floor(jax.lax.stop_gradient(angle) / jnp.pi)
    psi = jnp.where(k % 2 == 0, 1.0, -1.0) * jnp.cos(angle) - 2.0 * k
    anneal = jnp.maximum(least, base / (1.0 + decay * jnp.asarray(step, jnp.float32)))
    target = norm[:, 0] * (anneal * cosine + psi) / (1.0 + anneal)
    return cross_entropy(_replace(logits, labels, target), labels)


def cosface_loss(
    embedding: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    margin: float = 0.35,
    scale: float = 64.0,
) -> jax.Array:
    """Returns the large-margin cosine loss, for each sample.

    Cross-entropy of the logits `s cos theta_j`, for the true class `s (cos theta - m)` (Wang et
    al., CosFace, CVPR 2018, Eq. 4).

    Args:
      embedding: float [B,D].
      class_weights: float [D,C].
      labels: int [B].
      margin: m, subtracted from the cosine.
      scale: s, multiplies the logits.

    Returns:
      float32 [B], in nats.
    """
    logits = cosine_logits(embedding, class_weights, scale)
    target = _of_label(logits, labels) - scale * margin
    return cross_entropy(_replace(logits, labels, target), labels)


def arcface_loss(
    embedding: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    margin: float = 0.5,
    scale: float = 64.0,
) -> jax.Array:
    """Returns the additive angular margin loss, for each sample.

    Cross-entropy of the logits `s cos theta_j`, for the true class `s cos(theta + m)` (Deng et
    al., ArcFace, CVPR 2019, Eq. 3), or `s (cos theta - m sin m)` where `theta + m` exceeds pi and
    the cosine would rise again, as in the authors' code.

    Args:
      embedding: float [B,D].
      class_weights: float [D,C].
      labels: int [B].
      margin: m, in radians.
      scale: s, multiplies the logits.

    Returns:
      float32 [B], in nats.
    """
    logits = cosine_logits(embedding, class_weights, scale)
    cosine = functional.clip_cosine(_of_label(logits, labels) / scale)
    beyond = cosine < -jnp.cos(margin)
    target = jnp.where(
        beyond, cosine - margin * jnp.sin(margin), jnp.cos(jnp.arccos(cosine) + margin)
    )
    return cross_entropy(_replace(logits, labels, scale * target), labels)


def _of_label(x: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x, labels[:, None], axis=1)[:, 0]


def _replace(logits: jax.Array, labels: jax.Array, target: jax.Array) -> jax.Array:
    return logits.at[jnp.arange(len(labels)), labels].set(target)
