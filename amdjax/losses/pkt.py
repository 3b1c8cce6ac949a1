"""Probabilistic knowledge transfer: Passalis & Tefas, ECCV 2018."""

import jax
import jax.numpy as jnp

from amdjax.losses import functional

_EPS = 1e-7  # added to norms and probabilities, as in the code of the authors


def pkt_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns the divergence of the neighbourhood probabilities of the whole batch.

    `mean_ij p_ij log(p_ij / q_ij)`: p (teacher) and q (student) are the cosine similarities of
    all pairs of embeddings, mapped to [0, 1] by `(cos + 1) / 2`, each row scaled to sum 1.

    Args:
      student: embedding, float [B,D], the whole batch.
      teacher: embedding, float [B,D']; receives no gradient.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the numbers of images differ.
    """

    def probabilities(x: jax.Array) -> jax.Array:
        unit = x / (functional.safe_norm(x, axis=1) + _EPS)
        cosine = jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)
        similarity = (cosine + 1.0) / 2.0
        return similarity / jnp.sum(similarity, axis=1, keepdims=True)

    q, p = map(probabilities, functional.comparable(student, teacher))
    # p - q sums to zero over a row; subtracting it from each term reduces cancellation.
    difference = p - q
    return jnp.mean(p * jnp.log1p(difference / (q + _EPS)) - difference)
