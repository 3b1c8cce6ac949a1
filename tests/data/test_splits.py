import hashlib

import numpy as np
import pytest

from amdjax.data.splits import hold_out

LABELS = np.array([2, 0, 1, 0, 0, 2, 0, 1, 0, 0, 0, 2, 0, 0, 3])  # 9, 2, 3 and 1 of a class
NAMES = [f"image {i}" for i in range(len(LABELS))]


def names_of(chosen: np.ndarray) -> set[str]:
    return {NAMES[i] for i in np.flatnonzero(chosen)}


@pytest.mark.parametrize(
    ("fraction", "counts"), [(0.01, [1, 1, 1, 0]), (0.5, [4, 1, 2, 0]), (0.99, [8, 1, 2, 0])]
)
def test_hold_out_takes_a_fraction_of_each_class_and_never_all(fraction, counts):
    chosen = hold_out(LABELS, NAMES, fraction, seed=0)
    assert chosen.dtype == bool
    assert np.bincount(LABELS[chosen], minlength=4).tolist() == counts


def test_hold_out_takes_the_smallest_hashes():
    chosen = hold_out(LABELS, NAMES, 0.3, seed=7)
    zeros = [name for name, label in zip(NAMES, LABELS, strict=True) if label == 0]
    zeros.sort(key=lambda name: hashlib.sha256(f"7 {name}".encode()).hexdigest())
    assert names_of(chosen & (LABELS == 0)) == set(zeros[:3])


def test_hold_out_does_not_depend_on_the_order():
    order = np.random.default_rng(0).permutation(len(LABELS))
    chosen = hold_out(LABELS[order], [NAMES[i] for i in order], 0.4, seed=0)
    np.testing.assert_array_equal(chosen, hold_out(LABELS, NAMES, 0.4, seed=0)[order])


def test_hold_out_depends_on_the_seed():
    labels, names = np.zeros(100, int), list(map(str, range(100)))
    one, other = (hold_out(labels, names, 0.5, seed) for seed in (0, 1))
    assert 30 < (one != other).sum() < 70


def test_hold_out_takes_class_names():
    words = np.array(list("abcd"))[LABELS]
    np.testing.assert_array_equal(
        hold_out(list(words), NAMES, 0.4, seed=0), hold_out(LABELS, NAMES, 0.4, seed=0)
    )
