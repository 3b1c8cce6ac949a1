"""Metrics of a model's predictions.

Each quantity is a `clu` metric, which adds up over batches and devices; the functions of whole
arrays are the same metrics on one batch.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from amdjax.losses.ce import cross_entropy

NUM_BINS = 15  # of the expected calibration error, as in the AMD paper


def _in_top(k: int) -> Callable[..., jax.Array]:
    def hits(logits: jax.Array, labels: jax.Array, **_: Any) -> jax.Array:
        _, best = jax.lax.top_k(logits, min(k, logits.shape[-1]))
        return jnp.any(best == labels[:, None], axis=-1).astype(jnp.float32)

    return hits


def _nll(logits: jax.Array, labels: jax.Array, **_: Any) -> jax.Array:
    return cross_entropy(logits, labels)


@flax.struct.dataclass
class CalibrationError(clu.metrics.Metric):
    """Expected calibration error: `sum_k n_k / n |accuracy_k - confidence_k|` (Guo et al. 2017).

    Bin k of K holds the examples with a largest probability in (k/K, (k+1)/K].
    """

    count: jax.Array
    hits: jax.Array
    confidence: jax.Array

    @classmethod
    def empty(cls) -> "CalibrationError":
        """Returns the metric of no example."""
        zeros = jnp.zeros(NUM_BINS)
        return cls(zeros, zeros, zeros)

    @classmethod
    def from_model_output(
        cls,
        logits: jax.Array,
        labels: jax.Array,
        mask: jax.Array,
        num_bins: int = NUM_BINS,
        **_: Any,
    ) -> "CalibrationError":
        """Measures logits [B,C], labels int [B], mask bool [B]."""
        confidence = jnp.max(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
        hit = jnp.argmax(logits, axis=-1) == labels
        bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)
        member = jax.nn.one_hot(bins, num_bins) * mask[:, None]
        return cls(
            member.sum(0),
            (member * hit[:, None]).sum(0),
            (member * confidence[:, None]).sum(0),
        )

    def merge(self, other: "CalibrationError") -> "CalibrationError":
        """Adds the bins."""
        return jax.tree.map(jnp.add, self, other)

    def reduce(self) -> "CalibrationError":
        """Adds over a leading axis."""
        return jax.tree.map(lambda x: x.sum(0), self)

    def compute(self) -> jax.Array:
        """Returns the error, between 0 and 1."""
        return jnp.sum(jnp.abs(self.hits - self.confidence)) / jnp.sum(self.count)


@flax.struct.dataclass
class EvalMetrics(clu.metrics.Collection):
    """Metrics of an evaluation."""

    accuracy: clu.metrics.Average.from_fun(_in_top(1))
    top5: clu.metrics.Average.from_fun(_in_top(5))
    nll: clu.metrics.Average.from_fun(_nll)
    ece: CalibrationError


def top_k_accuracy(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """Returns the fraction of examples whose label is among the k largest logits.

    Args:
      logits: float [N,C].
      labels: int [N].
      k: at least 1; above C it is C.

    Returns:
      float32 scalar in [0, 1].
    """
    return jnp.mean(_in_top(k)(jnp.asarray(logits), jnp.asarray(labels)))


def negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean negative log-likelihood of the labels, in nats.

    Args:
      logits: float [N,C].
      labels: int [N].

    Returns:
      float32 scalar.
    """
    return jnp.mean(cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))


def expected_calibration_error(
    logits: jax.Array, labels: jax.Array, num_bins: int = NUM_BINS
) -> jax.Array:
    """Returns the expected calibration error with bins of equal width.

    Args:
      logits: float [N,C].
      labels: int [N].
      num_bins: bins in (0, 1].

    Returns:
      float32 scalar in [0, 1].
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    everything = jnp.ones(labels.shape, bool)
    return CalibrationError.from_model_output(logits, labels, everything, num_bins).compute()


def v_measure(labels: np.ndarray, predictions: np.ndarray) -> tuple[float, float, float]:
    """Returns how well predicted classes cluster the true ones (Rosenberg & Hirschberg 2007).

    Args:
      labels: int [N].
      predictions: int [N], classes or clusters.

    Returns:
      (homogeneity, completeness, V), each in [0, 1]; V is the harmonic mean of the other two.
    """
    from sklearn.metrics import homogeneity_completeness_v_measure  # slow import, for reports only

    return homogeneity_completeness_v_measure(np.asarray(labels), np.asarray(predictions))


def format_stat(values: Sequence[float], digits: int) -> str:
    """Returns "mean ± standard deviation" (n - 1) of some values, or a single value alone.

    Args:
      values: at least one.
      digits: after the decimal point.
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
