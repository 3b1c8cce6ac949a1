"""Warnings about a teacher whose accuracy is low."""

import pytest

from amdjax.teacher_outputs.accuracy import low_accuracy_warnings


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
