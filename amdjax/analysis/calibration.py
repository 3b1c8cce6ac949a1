"""Calibration: reliability diagrams and temperature scaling (Guo et al., ICML 2017)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special
from jax.typing import ArrayLike

from amdjax import metrics
from amdjax.errors import UserError

_TEMPERATURES = (0.01, 100.0)  # search interval


class Reliability(NamedTuple):
    """A reliability diagram of K bins: bin k holds the confidences in (k/K, (k+1)/K].

    Attributes:
      counts: int64 [K], number of examples in each bin.
      accuracy: float32 [K], fraction of correct predictions; 0 where the count is 0.
      confidence: float32 [K], mean of the largest probability; 0 where the count is 0.
      ece: the expected calibration error, equal to `metrics.expected_calibration_error`.
    """

    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    ece: float


def reliability(
    logits: ArrayLike, labels: ArrayLike, num_bins: int = metrics.NUM_BINS
) -> Reliability:
    """Returns the reliability diagram of predictions.

    Args:
      logits: float [N,C].
      labels: int [N].
      num_bins: K, number of bins of equal width.

    Returns:
      `Reliability`, without NaN.

    Raises:
      UserError: if there are no examples or bins, or the shapes differ from these.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    _check(logits, labels)
    if num_bins < 1:
        raise UserError(f"a reliability diagram needs at least 1 bin, not {num_bins}")
    mask = jnp.ones(labels.shape, bool)
    bins = metrics.CalibrationError.from_model_output(logits, labels, mask, num_bins)
    divisor = jnp.maximum(bins.count, 1.0)
    return Reliability(
        np.asarray(bins.count).astype(np.int64),
        np.asarray(bins.hits / divisor),
        np.asarray(bins.confidence / divisor),
        float(bins.compute()),
    )


def fit_temperature(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> float:
    """Returns the T that minimises the mean negative log-likelihood of `softmax(logits / T)`.

    The likelihood has a single maximum in log T. It is searched, in float64, between 0.01 and 100:
    if every prediction is correct, the likelihood has no maximum. If no T improves on T = 1 (the
    likelihood is 1 already), T is 1.

    Args:
      logits: float [N,C], finite.
      labels: int [N].

    Returns:
      T, whose likelihood on these examples is at least that of T = 1.

    Raises:
      UserError: if there are no examples, a logit is not finite, or the shapes differ from these.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    _check(logits, labels)
    if not np.isfinite(logits).all():
        raise UserError("cannot fit a temperature: the logits contain NaN or Inf")

    def nll(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -np.take_along_axis(scaled, labels[:, None], axis=1).mean()

    best = scipy.optimize.minimize_scalar(
        nll, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x)) if best.fun < nll(0.0) else 1.0


def split_half(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples at random into a half to fit on and a held-out half to evaluate on.

    Args:
      count: N, at least 2.
      seed: of the split.

    Returns:
      (fit int64 [N // 2], held_out int64 [N - N // 2]), disjoint and each ascending.

    Raises:
      UserError: if there are fewer than 2 examples.
    """
    if count < 2:
        raise UserError(f"cannot split {count} example(s) into two halves")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _check(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.shape[0]:
        raise UserError(
            "expected logits [N,C] and labels [N] with at least one example, got shapes "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
