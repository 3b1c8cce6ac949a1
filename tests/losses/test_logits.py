"""Losses of logits, angles and distances against the printed formulas in float64."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, pearsonr

from amdjax import losses
from amdjax.errors import UserError
from amdjax.losses import margin_softmax, softmax_variants
from amdjax.losses.kd import standardize_logits
from tests.losses.random_arrays import draw

ROWS = np.arange(6)
LABELS = np.array([0, 4, 2, 2, 1, 3])


class Angles(NamedTuple):
    """Embedding [6,7], classifier kernel [7,5] and their cosines [6,5], float64."""

    embedding: np.ndarray
    weights: np.ndarray
    cosine: np.ndarray


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray]:
    """Logits [6,5] of student and teacher, float64."""
    student, teacher = np.random.default_rng(0).normal(size=(2, 6, 5)) * 3
    return student, teacher


@pytest.fixture
def angles() -> Angles:
    rng = np.random.default_rng(1)
    embedding, weights = rng.normal(size=(6, 7)), rng.normal(size=(7, 5))
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return Angles(embedding, weights, unit @ (weights / np.linalg.norm(weights, axis=0)))


@pytest.mark.parametrize(("reduction", "divisor"), [("batchmean", 1), ("mean", 5)])
def test_kd_loss_reductions_sum_or_average_over_classes(logits, reduction, divisor):
    student, teacher = logits
    p, q = softmax(teacher / 2.0, -1), softmax(student / 2.0, -1)
    value = losses.kd_loss(student, teacher, 2.0, reduction=reduction)
    np.testing.assert_allclose(value, 4.0 * entropy(p, q, axis=-1) / divisor, rtol=1e-5)


def test_kd_loss_refuses_an_unknown_reduction(logits):
    with pytest.raises(UserError, match="unknown reduction of the loss kd 'batch_mean'; did you"):
        losses.kd_loss(*logits, reduction="batch_mean")


def test_dkd_loss_is_the_printed_formula(logits):
    student, teacher = logits
    p, q = softmax(teacher / 4.0, -1), softmax(student / 4.0, -1)
    expected = []
    for i, label in enumerate(LABELS):
        others = np.arange(5) != label
        target = entropy([p[i, label], 1 - p[i, label]], [q[i, label], 1 - q[i, label]])
        expected.append(16 * (target + 8 * entropy(p[i, others], q[i, others])))
    np.testing.assert_allclose(losses.dkd_loss(student, teacher, LABELS), expected, rtol=1e-4)


def test_dkd_loss_with_the_weights_of_eq_5_is_kd_loss(logits):
    """KD = KL of the target + (1 - p_target) KL of the others (Eq. 5)."""
    student, teacher = (x[:1] for x in logits)
    p = softmax(teacher / 4.0, -1)[0, LABELS[0]]
    parts = losses.dkd_loss(student, teacher, LABELS[:1], 4.0, 1.0, 1.0 - p)
    np.testing.assert_allclose(parts, losses.kd_loss(student, teacher, 4.0), rtol=1e-4)


@pytest.mark.parametrize("loss", [losses.dkd_loss, losses.kd_loss])
def test_logit_losses_of_saturated_softmax_are_finite(loss):
    student = 1e4 * jax.nn.one_hot(jnp.arange(4) % 2, 2)
    teacher = 1e4 * jax.nn.one_hot((jnp.arange(4) + 1) % 2, 2)
    labels = (jnp.arange(4) % 2,) if loss is losses.dkd_loss else ()
    for standardize in (False, True):

        def total(student, standardize=standardize):
            return loss(student, teacher, *labels, standardize=standardize).sum()

        value, gradient = jax.value_and_grad(total)(student)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_dist_loss_is_the_printed_formula(logits):
    student, teacher = logits
    p, q = softmax(teacher / 4.0, -1), softmax(student / 4.0, -1)
    inter = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T, strict=True)])
    np.testing.assert_allclose(
        losses.dist_loss(student, teacher, 4.0, 2.0, 3.0), 16 * (2 * inter + 3 * intra), rtol=1e-4
    )


def test_dist_loss_counts_a_class_of_tiny_probabilities_as_uncorrelated():
    logits = draw(6, 5).at[:, 4].add(-25.0)  # a probability of about 1e-11
    loss = losses.dist_loss(logits, logits, 1.0, inter_weight=0.0, intra_weight=1.0)
    np.testing.assert_allclose(loss, 1 / 5, rtol=1e-4)


def test_rkd_loss_divides_distances_by_the_mean_of_the_positive_ones():
    student, teacher = draw(4, 3)[jnp.asarray([0, 0, 1, 2])], draw(4, 6, seed=1)
    distances = []
    for embedding in (np.asarray(x, np.float64) for x in (student, teacher)):
        distance = np.zeros((4, 4))
        for i, j in itertools.product(range(4), repeat=2):
            distance[i, j] = np.sqrt(np.square(embedding[i] - embedding[j]).sum())
        distances.append(distance / distance[distance > 0].mean())
    difference = np.abs(np.subtract(*distances))
    huber = np.where(difference < 1, difference**2 / 2, difference - 0.5)
    loss = jax.jit(losses.rkd_loss)(student, teacher, distance_weight=1.0, angle_weight=0.0)
    np.testing.assert_allclose(loss, huber.mean(), rtol=1e-4)


def test_standardize_logits_removes_scale_and_shift(logits):
    student, teacher = logits
    z = (student - student.mean(1, keepdims=True)) / student.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardize_logits(jnp.asarray(student)), z, rtol=1e-5)
    np.testing.assert_allclose(
        losses.kd_loss(student, 7.0 * teacher + 3.0, 2.0, standardize=True),
        losses.kd_loss(student, teacher, 2.0, standardize=True),
        rtol=1e-4,
    )
    np.testing.assert_array_equal(standardize_logits(jnp.ones((2, 3))), 0.0)


def _cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the cross-entropy [6] with `target` [6] as the logits of the true classes."""
    logits = logits.copy()
    logits[ROWS, LABELS] = target
    return -log_softmax(logits, -1)[ROWS, LABELS]


def test_cosface_and_arcface_losses_are_the_printed_formulas(angles):
    embedding, weights, cosines = angles
    cosine = cosines[ROWS, LABELS]
    np.testing.assert_allclose(
        losses.cosface_loss(embedding, weights, LABELS, 0.35, 16.0),
        _cross_entropy(16 * cosines, 16 * (cosine - 0.35)),
        rtol=1e-4,
    )
    angle = np.arccos(cosine)
    target = np.where(angle + 0.5 > np.pi, cosine - 0.5 * np.sin(0.5), np.cos(angle + 0.5))
    np.testing.assert_allclose(
        losses.arcface_loss(embedding, weights, LABELS, 0.5, 16.0),
        _cross_entropy(16 * cosines, 16 * target),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        margin_softmax.cosine_logits(embedding, weights, 16.0), 16 * cosines, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("step", "anneal"), [(0, 1000.0), (100, 1000 / 13), (10**6, 5.0)])
def test_a_softmax_loss_is_the_printed_formula(angles, step, anneal):
    embedding, weights, cosines = angles
    norm = np.linalg.norm(embedding, axis=1)
    angle = np.arccos(cosines[ROWS, LABELS])
    k = np.floor(4 * angle / np.pi)
    psi = (-1) ** k * np.cos(4 * angle) - 2 * k
    target = norm * (anneal * np.cos(angle) + psi) / (1 + anneal)
    np.testing.assert_allclose(
        losses.a_softmax_loss(embedding, weights, LABELS, step),
        _cross_entropy(norm[:, None] * cosines, target),
        rtol=1e-4,
    )


def test_a_softmax_psi_decreases_from_0_to_pi():
    angles = np.linspace(0.01, np.pi - 0.01, 200)
    embedding = np.stack([np.cos(angles), np.sin(angles)], 1)
    weights = np.eye(2)
    labels = np.zeros(200, int)
    values = losses.a_softmax_loss(embedding, weights, labels, 10**9, 4, 0.0, 0.12, 0.0)
    second = np.asarray(margin_softmax.sphere_logits(embedding, weights))[:, 1]
    target = second - np.log(np.expm1(values))  # from the loss back to |x| psi
    assert np.all(np.diff(target) < 1e-3)


@pytest.mark.parametrize(
    "loss",
    [losses.cosface_loss, losses.arcface_loss, lambda e, w, y: losses.a_softmax_loss(e, w, y, 10)],
    ids=["cosface", "arcface", "a_softmax"],
)
@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_margin_losses_have_finite_gradients_at_cosine_1_and_minus_1(loss, sign):
    weights = jnp.eye(3)
    gradient = jax.grad(lambda e: loss(e, weights, jnp.arange(3)).sum())(sign * weights)
    assert np.all(np.isfinite(gradient))


def test_spherical_and_taylor_softmax_losses_are_the_printed_formulas(logits):
    student, _ = logits
    p = (student**2 + 1e-3) / (student**2 + 1e-3).sum(1, keepdims=True)
    np.testing.assert_allclose(
        losses.spherical_softmax_loss(student, LABELS), -np.log(p[ROWS, LABELS]), rtol=1e-4
    )
    f = 1 + student + student**2 / 2
    p = f / f.sum(1, keepdims=True)
    np.testing.assert_allclose(
        losses.taylor_softmax_loss(student, LABELS), -np.log(p[ROWS, LABELS]), rtol=1e-4
    )
    np.testing.assert_allclose(
        jax.nn.softmax(softmax_variants.taylor_scores(student)), p, rtol=1e-4, atol=1e-6
    )
    soft = jax.nn.one_hot(LABELS, 5)
    for loss in (losses.spherical_softmax_loss, losses.taylor_softmax_loss):
        np.testing.assert_allclose(loss(student, soft), loss(student, LABELS), rtol=1e-5)


def test_taylor_softmax_loss_of_high_order_is_cross_entropy(logits):
    student, _ = logits
    np.testing.assert_allclose(
        losses.taylor_softmax_loss(student / 3, LABELS, 12),
        losses.cross_entropy(student / 3, LABELS),
        rtol=1e-3,
    )


def test_taylor_softmax_loss_refuses_an_odd_order(logits):
    with pytest.raises(UserError, match="order must be even and at least 2, not 3"):
        losses.taylor_softmax_loss(logits[0], LABELS, 3)
