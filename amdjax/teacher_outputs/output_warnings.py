"""Warnings about a given teacher: a low accuracy, and outputs that are not logits."""

import numpy as np

_NEAR_CHANCE = 0.1  # of the way from chance to no error
_FAR_BELOW = 0.05  # of the accuracy that the teacher is known to have
_CAUSES = (
    "likely causes: its input is normalised differently from its training, its classes are in "
    "another order than the data set's, or the weights belong to another network"
)


def stored_output_warnings(
    logits: np.ndarray, accuracy: float | None, num_classes: int
) -> list[str]:
    """Returns warnings about the outputs of a teacher that a file has.

    Args:
      logits: float [N,C] or [N,2,C], of which the first thousand images are read.
      accuracy: of the teacher on them, 0 to 1; None if it is not known.
      num_classes: C.
    """
    warnings = probability_warnings(logits[:1000])
    if accuracy is not None:
        warnings += low_accuracy_warnings(accuracy, num_classes)
    return warnings


def probability_warnings(logits: np.ndarray) -> list[str]:
    """Returns a warning if the logits of a teacher look like probabilities, else none.

    Args:
      logits: float [n,...,C], of some images.
    """
    sums = np.sum(logits, axis=-1, dtype=np.float64)
    if np.any(logits < 0) or np.any(np.abs(sums - 1) > 1e-3):
        return []
    return [
        "the logits of the teacher look like probabilities: none is negative, and those of an "
        "image add up to 1; the losses take the softmax of logits, so give the logarithms instead: "
        "np.log(np.clip(p, 1e-6, 1))"
    ]


def low_accuracy_warnings(
    accuracy: float, num_classes: int, known: float | None = None
) -> list[str]:
    """Returns a warning if a teacher's accuracy is near chance or far below a known one, else none.

    An accuracy a is near chance if `(a - 1/C) / (1 - 1/C) < 0.1`, and far below the known one if
    the difference is more than 5 points.

    Args:
      accuracy: of the teacher here, 0 to 1.
      num_classes: C.
      known: its accuracy where it was trained; None if that is not known.
    """
    chance = 1 / num_classes
    if accuracy - chance < _NEAR_CHANCE * (1 - chance):
        finding = f"hardly above chance ({chance:.2%})"
    elif known is not None and known - accuracy > _FAR_BELOW:
        finding = f"far below the {known:.2%} that its checkpoint has"
    else:
        return []
    return [f"the teacher's accuracy of {accuracy:.2%} is {finding}; {_CAUSES}"]
