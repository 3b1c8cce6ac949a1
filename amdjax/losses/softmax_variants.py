"""Alternatives to softmax: the spherical and the Taylor softmax.

Both are the softmax of log-scores, functions of the logits: the loss is the cross-entropy of the
scores, and predictions use the scores as logits.
"""

import math

import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.ce import cross_entropy


def spherical_scores(logits: jax.Array, eps: float = 1e-3) -> jax.Array:
    """Returns `log(o^2 + eps)` [B,C] of logits [B,C]."""
    return jnp.log(jnp.square(functional.promote_to_float32(logits)) + eps)


def spherical_softmax_loss(logits: jax.Array, labels: jax.Array, eps: float = 1e-3) -> jax.Array:
    """Returns `-sum_c y_c log p_c`, `p_c = (o_c^2 + eps) / sum_j (o_j^2 + eps)`, for each sample.

    De Brebisson & Vincent, An exploration of softmax alternatives, ICLR 2016, Eq. 6; eps bounds
    the slope at o = 0.

    Args:
      logits: float [B,C].
      labels: int [B], or class probabilities float [B,C].
      eps: above 0.

    Returns:
      float32 [B], in nats.
    """
    return cross_entropy(spherical_scores(logits, eps), labels)


def taylor_scores(logits: jax.Array, order: int = 2) -> jax.Array:
    """Returns `log sum_(k <= order) o^k / k!` [B,C] of logits [B,C].

    Raises:
      UserError: if the order is not even, as the sum can then be negative.
    """
    if order < 2 or order % 2:
        raise UserError(f"taylor_softmax: order must be even and at least 2, not {order}")
    logits = functional.promote_to_float32(logits)
    return jnp.log(sum(logits**k / math.factorial(k) for k in range(order + 1)))


def taylor_softmax_loss(logits: jax.Array, labels: jax.Array, order: int = 2) -> jax.Array:
    """Returns `-sum_c y_c log p_c`, `p_c = f(o_c) / sum_j f(o_j)`, f the Taylor series of exp.

    De Brebisson & Vincent, An exploration of softmax alternatives, ICLR 2016, Eq. 9 (order 2:
    `f(o) = 1 + o + o^2 / 2`).

    Args:
      logits: float [B,C].
      labels: int [B], or class probabilities float [B,C].
      order: of the series; even, at least 2.

    Returns:
      float32 [B], in nats.

    Raises:
      UserError: if the order is not even.
    """
    return cross_entropy(taylor_scores(logits, order), labels)
