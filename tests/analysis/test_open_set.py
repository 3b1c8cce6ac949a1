"""Open-set scores and their measures, against values computed by hand and by pairs."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from amdjax.analysis import (
    auroc,
    fpr_at_tpr,
    max_log_probability,
    nearest_mean_cosine,
    negative_energy,
)
from amdjax.errors import UserError


def test_max_log_probability_is_the_logarithm_of_the_largest_probability():
    logits = np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(np.exp(max_log_probability(logits)), [0.7, 0.5, 1 / 3])
    np.testing.assert_allclose(max_log_probability(logits + 100.0), max_log_probability(logits))


def test_max_log_probability_differs_where_probabilities_are_rounded_to_one():
    first, second = max_log_probability(np.array([[60.0, 0.0], [64.0, 0.0]], np.float32))
    np.testing.assert_allclose([first, second], [-np.exp(-60), -np.exp(-64)], rtol=1e-12)


def test_negative_energy_is_the_logsumexp_of_the_logits():
    logits = np.log([[1.0, 2.0, 5.0], [0.5, 0.25, 0.25]])
    np.testing.assert_allclose(negative_energy(logits), [np.log(8.0), 0.0], atol=1e-15)
    np.testing.assert_allclose(negative_energy([[1000.0, 1000.0]]), [1000.0 + np.log(2.0)])


def test_nearest_mean_cosine_is_the_largest_cosine():
    means = [[2.0, 0.0], [0.0, 0.1]]
    embedding = [[3.0, 4.0], [5.0, 0.0], [-1.0, -1.0], [0.0, 0.0]]
    expected = [0.8, 1.0, -np.sqrt(0.5), 0.0]
    np.testing.assert_allclose(nearest_mean_cosine(embedding, means), expected)
    scaled = np.multiply(embedding, 1e3), np.multiply(means, 1e-3)
    np.testing.assert_allclose(nearest_mean_cosine(*scaled), expected)


def test_auroc_is_the_probability_that_a_known_example_has_the_larger_score():
    # Pairs: 3 > 2, 3 > 1, 2 = 2 counts half, 2 > 1, 0 < 2, 0 < 1.
    assert auroc([3.0, 2.0, 0.0], [2.0, 1.0]) == pytest.approx(3.5 / 6)
    assert auroc([1.0, 2.0], [0.0]) == 1.0 and auroc([0.0], [1.0, 2.0]) == 0.0
    rng = np.random.default_rng(0)
    known, unknown = rng.integers(0, 9, 70) + 2, rng.integers(0, 9, 50)
    larger = known[:, None] > unknown
    expected = np.mean(larger + 0.5 * (known[:, None] == unknown))
    assert auroc(known, unknown) == pytest.approx(expected)
    labels = np.r_[np.ones(70), np.zeros(50)]
    assert auroc(known, unknown) == roc_auc_score(labels, np.r_[known, unknown])
    assert auroc(known, unknown) == pytest.approx(1.0 - auroc(unknown, known))


def test_fpr_at_tpr_accepts_the_fraction_of_the_known_examples():
    known = np.arange(20.0)  # 19 of 20 have a score of at least 1
    assert fpr_at_tpr(known, [0.5, 1.0, 1.5, -3.0]) == 0.5
    assert fpr_at_tpr(known, [0.5, 1.0, 1.5, -3.0], tpr=1.0) == 0.75
    assert fpr_at_tpr(known, [0.5, 10.0, 10.5, 30.0], tpr=0.5) == 0.75
    assert fpr_at_tpr(known + 100.0, known) == 0.0
    # Of equal scores either all are accepted or none.
    assert fpr_at_tpr([1.0, 1.0, 1.0], [1.0, 0.0]) == 0.5


@pytest.mark.parametrize("measure", [auroc, fpr_at_tpr])
@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        ([], [1.0], "at least one of each"),
        ([1.0], [], "at least one of each"),
        ([[1.0]], [1.0], r"got shapes \[1, 1\] and \[1\]"),
        ([1.0, np.nan], [1.0], "NaN or Inf"),
    ],
)
def test_measures_reject_bad_scores(measure, known, unknown, message):
    with pytest.raises(UserError, match=message):
        measure(known, unknown)


def test_open_set_functions_reject_bad_arguments():
    with pytest.raises(UserError, match=r"above 0 and at most 1, not 0\.0"):
        fpr_at_tpr([1.0], [1.0], tpr=0.0)
    with pytest.raises(UserError, match=r"logits \[N,C\], got the shape \[2\]"):
        max_log_probability([1.0, 2.0])
    with pytest.raises(UserError, match=r"logits \[N,C\], got the shape \[2\]"):
        negative_energy([1.0, 2.0])
    with pytest.raises(UserError, match="3 dimensions and the class means have 2"):
        nearest_mean_cosine(np.ones([4, 3]), np.ones([5, 2]))
