"""Warnings about a teacher whose accuracy is low, or whose logits are none."""

import numpy as np
import pytest

from amdjax.teacher_outputs.output_warnings import low_accuracy_warnings, probability_warnings


@pytest.mark.parametrize(
    ("accuracy", "classes", "known", "finding"),
    [
        (0.12, 10, None, "hardly above chance (10.00%)"),
        (0.54, 2, 0.9, "hardly above chance (50.00%)"),
        (0.70, 10, 0.93, "far below the 93.00% that its checkpoint has"),
        (0.90, 10, 0.93, ""),
        (0.25, 10, None, ""),
    ],
)
def test_low_accuracy_warnings_names_the_likely_causes(accuracy, classes, known, finding):
    warnings = low_accuracy_warnings(accuracy, classes, known)
    assert len(warnings) == bool(finding)
    assert all(word in line for line in warnings for word in (finding, "normalised", "order"))


def test_probability_warnings_says_how_to_turn_them_into_logits():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), (8, 2)).astype(np.float32)
    (line,) = probability_warnings(probabilities)
    assert "np.log(np.clip(p, 1e-6, 1))" in line
    for logits in (np.log(probabilities), probabilities + 0.1, probabilities - 0.2):
        assert probability_warnings(logits) == []
