"""Losses of logits and angles, against the printed formulas in float64."""

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

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 6, 5)) * 3
LABELS = np.array([0, 4, 2, 2, 1, 3])
EMBEDDING, WEIGHTS = RNG.normal(size=(6, 7)), RNG.normal(size=(7, 5))
COSINE = (EMBEDDING / np.linalg.norm(EMBEDDING, axis=1, keepdims=True)) @ (
    WEIGHTS / np.linalg.norm(WEIGHTS, axis=0)
)
ROWS = np.arange(6)


def test_dkd():
    temperature = 4.0
    p, q = softmax(TEACHER / temperature, -1), softmax(STUDENT / temperature, -1)
    expected = []
    for i, label in enumerate(LABELS):
        others = np.arange(5) != label
        target = entropy([p[i, label], 1 - p[i, label]], [q[i, label], 1 - q[i, label]])
        expected.append(16 * (target + 8 * entropy(p[i, others], q[i, others])))
    np.testing.assert_allclose(losses.dkd_loss(STUDENT, TEACHER, LABELS), expected, rtol=1e-4)


def test_dkd_with_the_published_weights_is_kd():
    """KD = KL of the target + (1 - p_target) KL of the others (Eq. 5)."""
    one = TEACHER[:1]
    p = softmax(one / 4.0, -1)[0, LABELS[0]]
    parts = losses.dkd_loss(STUDENT[:1], one, LABELS[:1], 4.0, 1.0, 1.0 - p)
    np.testing.assert_allclose(parts, losses.kd_loss(STUDENT[:1], one, 4.0), rtol=1e-4)


@pytest.mark.parametrize("loss", [losses.dkd_loss, losses.kd_loss])
def test_sure_networks_stay_finite(loss):
    student = 1e4 * jax.nn.one_hot(jnp.arange(4) % 2, 2)
    teacher = 1e4 * jax.nn.one_hot((jnp.arange(4) + 1) % 2, 2)
    more = (jnp.arange(4) % 2,) if loss is losses.dkd_loss else ()
    for standardize in (False, True):
        value, gradient = jax.value_and_grad(
            lambda s, standardize=standardize: loss(
                s, teacher, *more, standardize=standardize
            ).sum()
        )(student)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_dist():
    p, q = softmax(TEACHER / 4.0, -1), softmax(STUDENT / 4.0, -1)
    inter = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(p.T, q.T, strict=True)])
    np.testing.assert_allclose(
        losses.dist_loss(STUDENT, TEACHER, 4.0, 2.0, 3.0), 16 * (2 * inter + 3 * intra), rtol=1e-4
    )


def test_standardised_logits():
    z = (STUDENT - STUDENT.mean(1, keepdims=True)) / STUDENT.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(standardize_logits(jnp.asarray(STUDENT)), z, rtol=1e-5)
    scaled = 7.0 * TEACHER + 3.0
    np.testing.assert_allclose(
        losses.kd_loss(STUDENT, scaled, 2.0, standardize=True),
        losses.kd_loss(STUDENT, TEACHER, 2.0, standardize=True),
        rtol=1e-4,
    )
    np.testing.assert_array_equal(standardize_logits(jnp.ones((2, 3))), 0.0)


def _cross_entropy(logits, target):
    logits = logits.copy()
    logits[ROWS, LABELS] = target
    return -log_softmax(logits, -1)[ROWS, LABELS]


def test_cosface_and_arcface():
    cosine = COSINE[ROWS, LABELS]
    np.testing.assert_allclose(
        losses.cosface_loss(EMBEDDING, WEIGHTS, LABELS, 0.35, 16.0),
        _cross_entropy(16 * COSINE, 16 * (cosine - 0.35)),
        rtol=1e-4,
    )
    angle = np.arccos(cosine)
    target = np.where(angle + 0.5 > np.pi, cosine - 0.5 * np.sin(0.5), np.cos(angle + 0.5))
    np.testing.assert_allclose(
        losses.arcface_loss(EMBEDDING, WEIGHTS, LABELS, 0.5, 16.0),
        _cross_entropy(16 * COSINE, 16 * target),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        margin_softmax.cosine_logits(EMBEDDING, WEIGHTS, 16.0), 16 * COSINE, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("step", "anneal"), [(0, 1000.0), (100, 1000 / 13), (10**6, 5.0)])
def test_a_softmax(step, anneal):
    norm = np.linalg.norm(EMBEDDING, axis=1)
    angle = np.arccos(COSINE[ROWS, LABELS])
    k = np.floor(4 * angle / np.pi)
    psi = (-1) ** k * np.cos(4 * angle) - 2 * k
    target = norm * (anneal * np.cos(angle) + psi) / (1 + anneal)
    np.testing.assert_allclose(
        losses.a_softmax_loss(EMBEDDING, WEIGHTS, LABELS, step),
        _cross_entropy(norm[:, None] * COSINE, target),
        rtol=1e-4,
    )


def test_psi_falls_over_the_whole_circle():
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
def test_margins_on_and_against_the_class_stay_finite(loss, sign):
    weights = jnp.eye(3)
    gradient = jax.grad(lambda e: loss(e, weights, jnp.arange(3)).sum())(sign * weights)
    assert np.all(np.isfinite(gradient))


def test_other_softmaxes():
    p = (STUDENT**2 + 1e-3) / (STUDENT**2 + 1e-3).sum(1, keepdims=True)
    np.testing.assert_allclose(
        losses.spherical_softmax_loss(STUDENT, LABELS), -np.log(p[ROWS, LABELS]), rtol=1e-4
    )
    f = 1 + STUDENT + STUDENT**2 / 2
    p = f / f.sum(1, keepdims=True)
    np.testing.assert_allclose(
        losses.taylor_softmax_loss(STUDENT, LABELS), -np.log(p[ROWS, LABELS]), rtol=1e-4
    )
    np.testing.assert_allclose(
        jax.nn.softmax(softmax_variants.taylor_scores(STUDENT)), p, rtol=1e-4, atol=1e-6
    )
    soft = jax.nn.one_hot(LABELS, 5)
    for loss in (losses.spherical_softmax_loss, losses.taylor_softmax_loss):
        np.testing.assert_allclose(loss(STUDENT, soft), loss(STUDENT, LABELS), rtol=1e-5)
    with pytest.raises(UserError, match="even order of at least 2, not 3"):
        losses.taylor_softmax_loss(STUDENT, LABELS, 3)


def test_taylor_softmax_of_high_order_is_softmax():
    np.testing.assert_allclose(
        losses.taylor_softmax_loss(STUDENT / 3, LABELS, 12),
        losses.cross_entropy(STUDENT / 3, LABELS),
        rtol=1e-3,
    )
