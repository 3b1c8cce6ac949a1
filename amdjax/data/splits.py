"""Splits that are the same on every machine: by a fraction of each class, or by class."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from amdjax.data.fingerprint import normal_form
from amdjax.errors import UserError, unknown_name


def hold_out(
    labels: Sequence[int] | Sequence[str] | np.ndarray,
    names: Iterable[str],
    fraction: float,
    seed: int,
) -> np.ndarray:
    """Chooses a fraction of the examples of each class.

    The examples of a class are ordered by a hash of the seed and their names, and the first ones
    are chosen. So the choice depends neither on the machine nor on versions of a random number
    generator, and an example that is added or removed changes it for few others.

    Args:
      labels: of the examples, N numbers or names of classes.
      names: of the examples, N different ones.
      fraction: of each class, in (0, 1); rounded to whole examples, at least one and not all. The
        only example of a class is not chosen.
      seed: of the choice.

    Returns:
      bool [N].
    """
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    digests = (
        hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()[:8]
        for name in names
    )
    order = np.lexsort((np.frombuffer(b"".join(digests), ">u8"), labels))
    chosen = np.zeros(len(labels), bool)
    for members in np.split(order, np.cumsum(counts)[:-1]):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        chosen[members[:count]] = True
    return chosen


def num_known(num_classes: int, unknown: Sequence[str]) -> int:
    """Returns the number of classes that are left when some are held out as unknown.

    Args:
      num_classes: of the whole data set.
      unknown: names of the classes to hold out.

    Raises:
      UserError: if a class is named twice, or fewer than two are left.
    """
    names = list(map(str, unknown))
    if len(set(names)) < len(names):
        raise UserError(f"config.data.unknown_classes has duplicates: {', '.join(names)}")
    if names and num_classes - len(names) < 2:
        raise UserError(
            f"config.data.unknown_classes holds out {len(names)} of {num_classes} classes; at "
            "least two must be left for training"
        )
    return num_classes - len(names)


def known_labels(class_names: Sequence[str], unknown: Sequence[str]) -> np.ndarray:
    """Returns the labels of the classes that are left when some are held out as unknown.

    Args:
      class_names: C names, in the order of the labels.
      unknown: names of the classes to hold out.

    Returns:
      int32 [C]: the known classes are numbered in their order, and the others are -1.

    Raises:
      UserError: if a class is missing or named twice, or fewer than two are left.
    """
    names = [normal_form(str(name)) for name in unknown]
    for name in names:
        if name not in class_names:
            raise unknown_name("class in config.data.unknown_classes", name, class_names)
    num_known(len(class_names), names)
    known = np.array([name not in names for name in class_names])
    return np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
