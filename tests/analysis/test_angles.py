import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.analysis import geodesic_distances, map_angles, map_cosine
from amdjax.errors import UserError
from tests.reference_values import cases


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _attention(feature: np.ndarray) -> np.ndarray:
    return np.square(feature.astype(np.float64)).sum(-1)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum((1, 2)) / np.sqrt(np.square(a).sum((1, 2)) * np.square(b).sum((1, 2)))


def test_map_angles_follow_their_definition():
    feature = _random(5, 7, 7, 3)
    positive = _attention(feature)
    positive /= np.sqrt(np.square(positive).sum((1, 2), keepdims=True))
    expected = np.degrees(np.arccos(_cosine(positive, 1 - positive)))
    angles = map_angles(feature)
    np.testing.assert_allclose(angles, expected, rtol=1e-5)
    np.testing.assert_allclose(map_angles(30.0 * feature), angles, rtol=1e-5)
    order = np.asarray([3, 0, 4, 1, 2])
    np.testing.assert_allclose(map_angles(feature[order]), angles[order], rtol=1e-6)


def test_map_angles_of_constant_single_pixel_and_zero_maps():
    constant, one_pixel, zero = np.ones((4, 4)), np.zeros((4, 4)), np.zeros((4, 4))
    one_pixel[1, 2] = 3.0
    angles = map_angles(np.stack([constant, one_pixel, zero])[..., None])
    np.testing.assert_allclose(angles, [0.0, 90.0, 90.0], atol=1e-4)


def test_map_angles_of_bfloat16_are_computed_in_float32():
    feature = jnp.asarray(_random(2, 8, 8, 4), jnp.bfloat16)
    angles = map_angles(feature)
    assert angles.dtype == jnp.float32
    np.testing.assert_allclose(angles, map_angles(feature.astype(jnp.float32)), rtol=1e-6)


def test_geodesic_distances_equal_a_loop_over_pairs():
    embedding, labels = _random(9, 4), np.asarray([0, 1, 2, 0, 1, 2, 0, 0, 1])
    expected = {True: [], False: []}
    for i, j in itertools.combinations(range(9), 2):
        a, b = embedding[i].astype(np.float64), embedding[j].astype(np.float64)
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        expected[bool(labels[i] == labels[j])].append(np.arccos(cosine))
    for ours, theirs in zip(
        geodesic_distances(embedding, labels), (expected[True], expected[False]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_geodesic_distances_give_the_amc_loss():
    for case in cases("amc"):
        embedding, labels = case["embedding"], case["label"]
        half = len(labels) // 2
        pairs = []
        for i in range(half):
            intra, inter = geodesic_distances(
                embedding[[i, i + half]], np.asarray(labels)[[i, i + half]]
            )
            hinge = np.maximum(0.0, float(case["margin"]) - inter)
            pairs += [*np.square(intra), *np.square(hinge)]
        np.testing.assert_allclose(np.mean(pairs), case["loss"], rtol=1e-5, atol=1e-6)


def test_geodesic_distances_of_equal_opposite_and_zero_embeddings():
    embedding = np.asarray([[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
    intra, inter = geodesic_distances(embedding, np.asarray([0, 0, 1, 1]))
    smallest = np.arccos(1 - 1e-7)  # as in the AMC loss, 4.5e-4
    largest = np.pi - smallest
    np.testing.assert_allclose(intra, [smallest, np.pi / 2], rtol=1e-5)
    np.testing.assert_allclose(inter, [largest, np.pi / 2, largest, np.pi / 2], rtol=1e-5)


def test_geodesic_distances_are_permutation_invariant():
    embedding, labels = _random(20, 3), np.arange(20) % 3
    order = np.random.default_rng(1).permutation(20)
    for ours, theirs in zip(
        geodesic_distances(embedding[order], labels[order]),
        geodesic_distances(embedding, labels),
        strict=True,
    ):
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-6)


def test_map_cosine_pools_the_larger_feature():
    student, teacher = _random(4, 4, 4, 3), _random(4, 8, 8, 5, seed=1)
    pooled = teacher.astype(np.float64).reshape(4, 4, 2, 4, 2, 5).mean((2, 4))
    expected = _cosine(_attention(student), _attention(pooled))
    np.testing.assert_allclose(map_cosine(student, teacher), expected, rtol=1e-5)
    np.testing.assert_allclose(map_cosine(teacher, student), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(map_cosine)(student, teacher), expected, rtol=1e-5)


def test_map_cosine_gives_the_at_loss():
    student, teacher = _random(4, 6, 6, 3), _random(4, 6, 6, 5, seed=1)
    np.testing.assert_allclose(
        36 * losses.at_loss(student, teacher), 2 - 2 * map_cosine(student, teacher), rtol=1e-4
    )


def test_map_cosine_of_equal_and_zero_maps():
    student = _random(3, 4, 4, 2)
    np.testing.assert_allclose(map_cosine(student, -3.0 * student), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(map_cosine(student, np.zeros_like(student)), 0.0)


def test_angles_reject_bad_shapes():
    with pytest.raises(UserError, match="cannot be compared"):
        map_cosine(_random(2, 4, 4, 3), _random(2, 7, 7, 3))
    with pytest.raises(UserError, match=r"\[4, 3\] and \[3\]"):
        geodesic_distances(_random(4, 3), np.zeros(3, int))
