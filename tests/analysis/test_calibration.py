import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import metrics
from amdjax.analysis import fit_temperature, reliability, split_half
from amdjax.errors import UserError
from tests.reference_values import load


@pytest.fixture(scope="module")
def arrays():
    return load("metrics")


def _calibrated(
    count: int = 20_000, classes: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(count, classes))
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return logits, labels


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    log_sum = np.log(np.exp(logits).sum(1))
    return np.mean(log_sum - logits[np.arange(len(labels)), labels])


@pytest.mark.parametrize("bins", [10, 15])
def test_reliability_has_the_reference_error(arrays, bins):
    logits, labels = arrays["logits"], arrays["label"]
    diagram = reliability(logits, labels, bins)
    np.testing.assert_allclose(diagram.ece, arrays[f"ece{bins}"], rtol=1e-5)
    error = metrics.expected_calibration_error(logits, labels, bins)
    np.testing.assert_allclose(diagram.ece, error, rtol=1e-6)
    gaps = diagram.counts * np.abs(diagram.accuracy - diagram.confidence)
    np.testing.assert_allclose(gaps.sum() / 500, arrays[f"ece{bins}"], rtol=1e-5)


def test_reliability_equals_a_loop_over_bins(arrays):
    logits, labels = arrays["logits"].astype(np.float64), arrays["label"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, correct = p.max(1), p.argmax(1) == labels
    diagram = reliability(logits, labels, 8)
    for k in range(8):
        member = (confidence > k / 8) & (confidence <= (k + 1) / 8)
        assert diagram.counts[k] == member.sum()
        if member.any():
            np.testing.assert_allclose(diagram.accuracy[k], correct[member].mean(), rtol=1e-6)
            np.testing.assert_allclose(diagram.confidence[k], confidence[member].mean(), rtol=1e-5)


def test_reliability_of_empty_bins_is_zero():
    p = jnp.asarray([[0.9, 0.1], [0.7, 0.3], [0.68, 0.32]])
    diagram = reliability(jnp.log(p), jnp.asarray([0, 1, 0]), 5)
    np.testing.assert_array_equal(diagram.counts, [0, 0, 0, 2, 1])
    np.testing.assert_allclose(diagram.accuracy, [0, 0, 0, 0.5, 1])
    np.testing.assert_allclose(diagram.confidence, [0, 0, 0, 0.69, 0.9], rtol=1e-6)
    assert isinstance(diagram.ece, float)


def test_calibration_is_permutation_invariant(arrays):
    logits, labels = arrays["logits"], arrays["label"]
    order = np.random.default_rng(1).permutation(len(labels))
    for ours, theirs in zip(
        reliability(logits[order], labels[order]), reliability(logits, labels), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(
        fit_temperature(logits[order], labels[order]), fit_temperature(logits, labels), rtol=1e-4
    )


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0, 20.0])
def test_fit_temperature_recovers_a_factor(factor):
    logits, labels = _calibrated()
    np.testing.assert_allclose(fit_temperature(factor * logits, labels), factor, rtol=0.03)


def test_fit_temperature_is_at_least_as_good_as_a_grid(arrays):
    logits, labels = arrays["logits"].astype(np.float64), arrays["label"]
    grid = np.geomspace(0.05, 20.0, 2001)
    values = [_nll(logits / t, labels) for t in grid]
    fitted = fit_temperature(logits, labels)
    np.testing.assert_allclose(fitted, grid[np.argmin(values)], rtol=0.005)
    assert _nll(logits / fitted, labels) <= min(values)


def test_fit_temperature_improves_held_out_calibration():
    logits, labels = _calibrated(4000)
    fit, held_out = split_half(4000)
    logits = 3.0 * logits
    temperature = fit_temperature(logits[fit], labels[fit])
    before = reliability(logits[held_out], labels[held_out]).ece
    after = reliability(logits[held_out] / temperature, labels[held_out]).ece
    assert after < 0.3 * before


def test_fit_temperature_of_correct_predictions():
    labels = np.arange(20) % 4
    assert 0.01 <= fit_temperature(5.0 * np.eye(4)[labels], labels) < 0.2
    assert fit_temperature(1e4 * np.eye(4)[labels], labels) == 1.0
    assert fit_temperature(np.zeros((20, 4)), labels) == 1.0


def test_fit_temperature_of_wrong_predictions_is_large():
    labels = np.arange(20) % 4
    assert fit_temperature(1e4 * np.eye(4)[labels], (labels + 1) % 4) > 90.0


def test_split_half_is_a_deterministic_partition():
    fit, held_out = split_half(101, seed=3)
    assert (len(fit), len(held_out)) == (50, 51)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held_out])), np.arange(101))
    np.testing.assert_array_equal(fit, split_half(101, seed=3)[0])
    assert not np.array_equal(fit, split_half(101, seed=4)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_half(1), "two halves"),
        (lambda: reliability(np.zeros((3, 2)), np.zeros(2, int)), r"\[3, 2\] and \[2\]"),
        (lambda: reliability(np.zeros((0, 2)), np.zeros(0, int)), "at least one example"),
        (lambda: reliability(np.zeros((3, 2)), np.zeros(3, int), 0), "at least 1 bin"),
        (lambda: fit_temperature(np.zeros(3), np.zeros(3, int)), r"\[3\] and \[3\]"),
        (lambda: fit_temperature(np.full((3, 2), np.nan), np.zeros(3, int)), "NaN or Inf"),
    ],
)
def test_calibration_rejects_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
