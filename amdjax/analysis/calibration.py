"""Calibration: reliability diagrams and temperature scaling (Guo et al., ICML 2017)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.special

from amdjax import metrics
from amdjax.errors import UserError

_TEMPERATURES = (0.01, 100.0)  # where the temperature is looked for


class Reliability(NamedTuple):
    """A reliability diagram of K bins: bin k holds the confidences in (k/K, (k+1)/K].

    Attributes:
      count: int64 [K], examples in each bin.
      accuracy: float32 [K], share of hits; 0 where the count is 0.
      confidence: float32 [K], mean of the largest probability; 0 where the count is 0.
      ece: the expected calibration error, that of `metrics.expected_calibration_error`.
    """

    count: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    ece: float


def reliability(
    logits: jax.Array, labels: jax.Array, num_bins: int = metrics.NUM_BINS
) -> Reliability:
    """Returns how often predictions of a given confidence are right.

    Args:
      logits: float [N,C].
      labels: int [N].
      num_bins: K, bins of equal width.

    Returns:
      `Reliability`; nothing in it is NaN.

    Raises:
      UserError: if there is no example, no bin, or not one label for each row of logits.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    _check(logits, labels)
    if num_bins < 1:
        raise UserError(f"a reliability diagram needs at least 1 bin, not {num_bins}")
    everything = jnp.ones(labels.shape, bool)
    bins = metrics.CalibrationError.from_model_output(logits, labels, everything, num_bins)
    divisor = jnp.maximum(bins.count, 1.0)
    return Reliability(
        np.asarray(bins.count).astype(np.int64),
        np.asarray(bins.hits / divisor),
        np.asarray(bins.confidence / divisor),
        float(bins.compute()),
    )


def fit_temperature(logits: jax.Array, labels: jax.Array) -> float:
    """Returns the T that minimises the mean negative log-likelihood of `softmax(logits / T)`.

    The likelihood has one peak in log T. It is looked for, in float64, between 0.01 and 100: where
    every prediction is right the smallest T would be the best. Where no T improves on the logits
    as they are (their likelihood is 1 already) T is 1.

    Args:
      logits: float [N,C], finite.
      labels: int [N].

    Returns:
      T, never worse than 1 on these examples.

    Raises:
      UserError: if there is no example, a logit is not finite, or not one label for each row.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    _check(logits, labels)
    if not np.isfinite(logits).all():
        raise UserError("a temperature cannot be fitted: some logits are not finite")

    def nll(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -np.take_along_axis(scaled, labels[:, None], axis=1).mean()

    best = scipy.optimize.minimize_scalar(
        nll, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(best.x)) if best.fun < nll(0.0) else 1.0


def split_half(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples at random into those to fit on and those held out for the report.

    Args:
      count: N, at least 2.
      seed: of the division.

    Returns:
      (fit int64 [N // 2], held_out int64 [N - N // 2]), disjoint and each ascending.

    Raises:
      UserError: if there are fewer than 2 examples.
    """
    if count < 2:
        raise UserError(f"{count} example(s) cannot be divided into two halves")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _check(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.shape[0]:
        raise UserError(
            "logits [N,C] and labels [N] with at least one example are needed, not "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
