"""Cross-entropy, the supervised loss."""

import jax
import optax

from amdjax.losses import functional


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Returns `-sum_c y_c log softmax(logits)_c` for each sample.

    With label smoothing e, y is replaced by `(1 - e) y + e / C` (Szegedy et al., CVPR 2016), as in
    PyTorch.

    Args:
      logits: float [B,C].
      labels: int [B], or class probabilities float [B,C].
      label_smoothing: e, at least 0 and below 1.

    Returns:
      float32 [B], in nats.
    """
    logits = functional.promote_to_float32(logits)
    if label_smoothing:
        if labels.ndim == 1:
            labels = jax.nn.one_hot(labels, logits.shape[-1])
        labels = optax.smooth_labels(labels, label_smoothing)
    if labels.ndim == 1:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return optax.softmax_cross_entropy(logits, labels)
