"""Properties of the losses that hold for any input: zero, finite, invariant, differentiable."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.am import patches
from tests.losses.random_arrays import draw

FEATURE_LOSSES = [
    losses.at_loss,
    losses.sp_loss,
    losses.am_loss,
    losses.am_global_local_loss,
    losses.nst_loss,
    losses.ft_loss,
    losses.hint_loss,
]
FLAT_LOSSES = [
    losses.kd_loss,
    losses.dist_loss,
    losses.rkd_loss,
    losses.pkt_loss,
    losses.cc_loss,
]
ALL_LOSSES = [*FLAT_LOSSES, *FEATURE_LOSSES]


def _shape(loss: Callable) -> tuple[int, ...]:
    return (4, 5) if loss in FLAT_LOSSES else (4, 6, 6, 3)


def _pair(loss: Callable) -> tuple[jax.Array, jax.Array]:
    """Returns inputs of student and teacher."""
    student, teacher = draw(2, *_shape(loss))
    return student, teacher


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_loss_is_zero_for_equal_inputs_and_else_positive(loss):
    student, teacher = _pair(loss)
    exact = {"eps": 0.0} if loss is losses.dist_loss else {}
    np.testing.assert_allclose(loss(student, student, **exact), 0.0, atol=1e-12)
    assert np.all(np.asarray(loss(student, teacher)) > 0)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_loss_refuses_outputs_for_other_images(loss):
    student, teacher = _pair(loss)
    with pytest.raises(UserError, match=r"outputs of student and teacher .* have the shapes \[4, "):
        loss(student, teacher[:1])


@pytest.mark.parametrize(
    "loss",
    [
        losses.kd_loss,
        losses.ttm_loss,
        losses.wttm_loss,
        losses.dist_loss,
        functools.partial(losses.dkd_loss, labels=jnp.zeros(4, int)),
        functools.partial(losses.nkd_loss, labels=jnp.zeros(4, int)),
        functools.partial(losses.rld_loss, labels=jnp.zeros(4, int)),
    ],
)
def test_losses_of_logits_refuse_other_classes(loss):
    student, teacher = draw(2, 4, 5)
    with pytest.raises(UserError, match=r"entry by entry, .* shapes \[4, 5\] and \[4, 1\]"):
        loss(student, teacher[:, :1])


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_teacher_receives_no_gradient(loss):
    student, teacher = _pair(loss)
    gradient = jax.grad(lambda t: jnp.sum(loss(student, t)))(teacher)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if loss is not losses.cc_loss])
def test_loss_is_equivariant_to_the_order_of_samples(loss):
    student, teacher = _pair(loss)
    order = jnp.asarray([2, 0, 3, 1])
    value, permuted = loss(student, teacher), loss(student[order], teacher[order])
    expected = value[order] if value.ndim else value
    np.testing.assert_allclose(permuted, expected, rtol=1e-5)


def _one_pixel(shape):
    return jnp.zeros(shape).at[:, 0, 0].set(3.0)


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
@pytest.mark.parametrize("student", [jnp.zeros, jnp.ones, _one_pixel], ids=["0", "1", "pixel"])
@pytest.mark.parametrize("teacher", [jnp.zeros, jnp.ones, _one_pixel], ids=["0", "1", "pixel"])
def test_feature_losses_of_degenerate_maps_are_finite(loss, student, teacher):
    shape = _shape(loss)
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(loss(s, teacher(shape))))(student(shape))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("confidence", [0.0, 1e4])
def test_kd_loss_of_extreme_logits_is_finite(confidence):
    student = confidence * jax.nn.one_hot(jnp.arange(4) % 2, 2)
    teacher = confidence * jax.nn.one_hot((jnp.arange(4) + 1) % 2, 2)
    value, gradient = jax.value_and_grad(lambda s: losses.kd_loss(s, teacher).sum())(student)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("loss", [losses.amc_loss, losses.contrastive_loss])
@pytest.mark.parametrize("same_embedding", [True, False])
def test_contrastive_losses_of_equal_embeddings_are_finite(loss, same_embedding):
    embedding = jnp.ones((4, 3)) if same_embedding else jnp.zeros((4, 3))
    for labels in (jnp.zeros(4, int), jnp.arange(4)):
        value, gradient = jax.value_and_grad(loss)(embedding, labels)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def _rkd_of_two_equal_embeddings(student):
    return losses.rkd_loss(student.at[1].set(student[0]), draw(4, 3, seed=2))


def _sp_of_a_zero_feature(student):
    feature = student.at[0].set(0.0)[:, None, None]
    return losses.sp_loss(feature, draw(4, 1, 1, 3, seed=2))


def _amc_of_a_zero_embedding(student):
    return losses.amc_loss(student.at[0].set(0.0), jnp.array([0, 0, 1, 1]))


def _cosface_of_a_zero_embedding(student):
    labels, weights = jnp.array([0, 0, 1, 1]), draw(3, 2, seed=2)
    return losses.cosface_loss(student.at[0].set(0.0), weights, labels).sum()


@pytest.mark.parametrize(
    "loss",
    [
        _rkd_of_two_equal_embeddings,
        _sp_of_a_zero_feature,
        _amc_of_a_zero_embedding,
        _cosface_of_a_zero_embedding,
    ],
)
def test_one_degenerate_embedding_does_not_dominate_the_gradient(loss):
    # Vectors that are zero are unit vectors of no direction: their gradient was 1e12.
    for scale in (1.0, 1e-3):
        assert np.abs(jax.grad(loss)(scale * draw(4, 3, seed=1))).max() < 100 / scale


def test_l2_normalize_keeps_what_is_not_finite():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [jnp.nan, 1.0]])
    expected = [[0.6, 0.8], [0.0, 0.0], [jnp.nan, jnp.nan]]
    np.testing.assert_allclose(functional.l2_normalize(x, axis=1), expected, rtol=1e-6)


def test_amc_loss_refuses_an_odd_batch():
    with pytest.raises(UserError, match="even batch size, not 5"):
        losses.amc_loss(jnp.ones((5, 3)), jnp.zeros(5, int))


def test_am_loss_of_bfloat16_is_computed_in_float32():
    student, teacher = _pair(losses.am_loss)
    value = losses.am_loss(student.astype(jnp.bfloat16), teacher.astype(jnp.bfloat16))
    assert value.dtype == jnp.float32
    rounded = (student.astype(jnp.bfloat16).astype(jnp.float32), teacher.astype(jnp.bfloat16))
    np.testing.assert_array_equal(value, losses.am_loss(*rounded))


def test_am_loss_adds_the_chosen_terms():
    student, teacher = _pair(losses.am_loss)
    parts = losses.am_terms(student, teacher)
    for terms in (("angular",), ("positive", "negative"), losses.AM_TERMS):
        expected = sum(getattr(parts, name) for name in terms) / 3
        np.testing.assert_allclose(
            losses.am_loss(student, teacher, terms=terms), expected, rtol=1e-6
        )


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (("angle",), "unknown AM term 'angle'; did you mean angular"),
        ((), "terms is empty"),
        (("angular", "angular"), "duplicate term"),
    ],
)
def test_am_loss_refuses_invalid_terms(terms, message):
    with pytest.raises(UserError, match=message):
        losses.am_loss(*_pair(losses.am_loss), terms=terms)


def test_am_global_local_loss_interpolates_between_map_and_patches():
    student, teacher = _pair(losses.am_loss)
    by_weight = [
        losses.am_global_local_loss(student, teacher, global_weight=w) for w in (0.0, 0.3, 1.0)
    ]
    np.testing.assert_allclose(by_weight[1], 0.7 * by_weight[0] + 0.3 * by_weight[2], rtol=1e-5)
    np.testing.assert_allclose(by_weight[2], losses.am_loss(student, teacher), rtol=1e-6)
    whole = losses.am_global_local_loss(student, teacher, global_weight=0.0, grid=1)
    np.testing.assert_allclose(whole, by_weight[2], rtol=1e-6)
    with pytest.raises(UserError, match=r"between 0 and 1, not 1\.5"):
        losses.am_global_local_loss(student, teacher, global_weight=1.5)


@pytest.mark.parametrize(("size", "grid"), [(8, 2), (7, 2), (8, 3), (7, 3), (5, 5)])
def test_patches_cover_each_position_once(size, grid):
    x = jnp.arange(2 * size * size).reshape(2, size, size)
    pieces = list(patches(x, grid))
    assert len(pieces) == grid**2
    np.testing.assert_array_equal(
        np.sort(np.concatenate([piece.ravel() for piece in pieces])), np.arange(x.size)
    )
    sides = {side for piece in pieces for side in piece.shape[1:]}
    assert max(sides) - min(sides) <= 1
    assert pieces[0].shape[1] == size // grid


def test_patches_refuses_a_grid_finer_than_the_map():
    with pytest.raises(UserError, match="5x5 patches does not fit a 4x4 feature map"):
        list(patches(jnp.zeros((1, 4, 4)), 5))


@pytest.mark.parametrize("loss", [losses.at_loss, losses.am_loss, losses.am_global_local_loss])
def test_attention_losses_pool_the_larger_map(loss):
    small, large = draw(2, 4, 4, 3, seed=1), draw(2, 8, 12, 5, seed=2)
    pooled = large.reshape(2, 4, 2, 4, 3, 5).mean((2, 4))
    np.testing.assert_allclose(loss(large, small), loss(pooled, small), rtol=1e-6)
    np.testing.assert_allclose(loss(small, large), loss(small, pooled), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, 6, 1), (2, 8, 2, 1), (2, 2, 8, 1), (2, 5, 4, 1)])
def test_am_loss_refuses_sizes_without_exact_pooling(shape):
    with pytest.raises(UserError, match="whole multiple"):
        losses.am_loss(jnp.ones(shape), jnp.ones((2, 4, 4, 1)))
