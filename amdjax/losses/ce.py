"""Cross-entropy, the supervised loss."""

import jax
import optax

from amdjax.losses import functional


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns `-sum_c y_c log softmax(logits)_c` for each sample.

    Args:
      logits: float [B,C].
      labels: int [B], or class probabilities float [B,C].

    Returns:
      float32 [B], in nats.
    """
    logits = functional.promote_to_float32(logits)
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)
