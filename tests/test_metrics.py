import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import metrics
from tests.reference_values import load


@pytest.fixture(scope="module")
def arrays():
    return load("metrics")


def test_metrics_equal_the_reference_values(arrays):
    logits, labels = arrays["logits"], arrays["label"]
    ours = [
        (metrics.top_k_accuracy(logits, labels, 1), "top1"),
        (metrics.top_k_accuracy(logits, labels, 5), "top5"),
        (metrics.negative_log_likelihood(logits, labels), "nll"),
        (metrics.expected_calibration_error(logits, labels), "ece15"),
        (metrics.expected_calibration_error(logits, labels, num_bins=10), "ece10"),
    ]
    for value, key in ours:
        np.testing.assert_allclose(value, arrays[key], rtol=1e-5)
    np.testing.assert_allclose(
        metrics.v_measure(labels, logits.argmax(-1)),
        [arrays[key] for key in ("homogeneity", "completeness", "v_measure")],
        rtol=1e-6,
    )


@pytest.mark.parametrize("batch_size", [500, 128, 7])
def test_metrics_of_masked_batches_add_up(arrays, batch_size):
    logits, labels = jnp.asarray(arrays["logits"]), jnp.asarray(arrays["label"])
    total = metrics.EvalMetrics.empty()
    for start in range(0, 500, batch_size):
        rows = jnp.arange(start, start + batch_size)
        total = total.merge(
            metrics.EvalMetrics.single_from_model_output(
                logits=logits[rows % 500], labels=labels[rows % 500], mask=rows < 500
            )
        )
    assert total.accuracy.count == 500
    for name, key in (("accuracy", "top1"), ("top5", "top5"), ("nll", "nll"), ("ece", "ece15")):
        np.testing.assert_allclose(total.compute()[name], arrays[key], rtol=1e-5)


def test_top_k_accuracy_with_fewer_than_k_classes():
    logits = jnp.asarray([[1.0, 2.0], [2.0, 1.0]])
    assert metrics.top_k_accuracy(logits, jnp.asarray([0, 0]), 5) == 1.0
    assert metrics.top_k_accuracy(logits, jnp.asarray([0, 0]), 1) == 0.5


def test_calibration_error_of_a_hand_computed_example():
    # Two bins: confidences 0.5 (hit), exactly on the edge, and 0.8 twice (hit, miss).
    p = jnp.asarray([[0.5, 0.5], [0.8, 0.2], [0.8, 0.2]])
    error = metrics.expected_calibration_error(jnp.log(p), jnp.asarray([0, 0, 1]), num_bins=2)
    np.testing.assert_allclose(error, (1 * 0.5 + 2 * 0.3) / 3, rtol=1e-6)


def test_format_stat_gives_mean_and_standard_deviation():
    assert metrics.format_stat([0.25], 1) == "0.2"
    assert metrics.format_stat([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
