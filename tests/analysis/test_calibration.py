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


def _calibrated(count=20_000, classes=5, seed=0):
    """Logits whose softmax the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(count, classes))
    labels = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return logits, labels


def _nll(logits, labels):
    log_sum = np.log(np.exp(logits).sum(1))
    return np.mean(log_sum - logits[np.arange(len(labels)), labels])


@pytest.mark.parametrize("bins", [10, 15])
def test_reliability_has_the_reference_error(arrays, bins):
    logits, labels = arrays["logits"], arrays["label"]
    diagram = reliability(logits, labels, bins)
    np.testing.assert_allclose(diagram.ece, arrays[f"ece{bins}"], rtol=1e-5)
    error = metrics.expected_calibration_error(logits, labels, bins)
    np.testing.assert_allclose(diagram.ece, error, rtol=1e-6)
    gaps = diagram.count * np.abs(diagram.accuracy - diagram.confidence)
    np.testing.assert_allclose(gaps.sum() / 500, arrays[f"ece{bins}"], rtol=1e-5)


def test_reliability_by_a_loop_over_the_bins(arrays):
    logits, labels = arrays["logits"].astype(np.float64), arrays["label"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, hit = p.max(1), p.argmax(1) == labels
    diagram = reliability(logits, labels, 8)
    for k in range(8):
        member = (confidence > k / 8) & (confidence <= (k + 1) / 8)
        assert diagram.count[k] == member.sum()
        if member.any():
            np.testing.assert_allclose(diagram.accuracy[k], hit[member].mean(), rtol=1e-6)
            np.testing.assert_allclose(diagram.confidence[k], confidence[member].mean(), rtol=1e-5)


def test_empty_bins_are_zero():
    p = jnp.asarray([[0.9, 0.1], [0.7, 0.3], [0.68, 0.32]])
    diagram = reliability(jnp.log(p), jnp.asarray([0, 1, 0]), 5)
    np.testing.assert_array_equal(diagram.count, [0, 0, 0, 2, 1])
    np.testing.assert_allclose(diagram.accuracy, [0, 0, 0, 0.5, 1])
    np.testing.assert_allclose(diagram.confidence, [0, 0, 0, 0.69, 0.9], rtol=1e-6)
    assert isinstance(diagram.ece, float)


def test_order_of_the_examples_does_not_matter(arrays):
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
def test_temperature_undoes_a_factor(factor):
    logits, labels = _calibrated()
    np.testing.assert_allclose(fit_temperature(factor * logits, labels), factor, rtol=0.03)


def test_temperature_is_the_best_of_a_grid(arrays):
    logits, labels = arrays["logits"].astype(np.float64), arrays["label"]
    grid = np.geomspace(0.05, 20.0, 2001)
    values = [_nll(logits / t, labels) for t in grid]
    fitted = fit_temperature(logits, labels)
    np.testing.assert_allclose(fitted, grid[np.argmin(values)], rtol=0.005)
    assert _nll(logits / fitted, labels) <= min(values)


def test_temperature_helps_on_held_out_examples():
    logits, labels = _calibrated(4000)
    fit, held_out = split_half(4000, seed=0)
    logits = 3.0 * logits
    temperature = fit_temperature(logits[fit], labels[fit])
    before = reliability(logits[held_out], labels[held_out]).ece
    after = reliability(logits[held_out] / temperature, labels[held_out]).ece
    assert after < 0.3 * before


def test_temperature_of_perfect_logits():
    labels = np.arange(20) % 4
    assert 0.01 <= fit_temperature(5.0 * np.eye(4)[labels], labels) < 0.2
    assert fit_temperature(1e4 * np.eye(4)[labels], labels) == 1.0
    assert fit_temperature(np.zeros((20, 4)), labels) == 1.0


def test_temperature_of_wrong_logits_takes_their_confidence_away():
    labels = np.arange(20) % 4
    assert fit_temperature(1e4 * np.eye(4)[labels], (labels + 1) % 4) > 90.0


def test_split_half():
    fit, held_out = split_half(101, seed=3)
    assert (len(fit), len(held_out)) == (50, 51)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held_out])), np.arange(101))
    np.testing.assert_array_equal(fit, split_half(101, seed=3)[0])
    assert not np.array_equal(fit, split_half(101, seed=4)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_half(1, 0), "two halves"),
        (lambda: reliability(np.zeros((3, 2)), np.zeros(2, int)), r"not \[3, 2\] and \[2\]"),
        (lambda: reliability(np.zeros((0, 2)), np.zeros(0, int)), "at least one example"),
        (lambda: reliability(np.zeros((3, 2)), np.zeros(3, int), 0), "at least 1 bin"),
        (lambda: fit_temperature(np.zeros(3), np.zeros(3, int)), r"not \[3\] and \[3\]"),
        (lambda: fit_temperature(np.full((3, 2), np.nan), np.zeros(3, int)), "not finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
