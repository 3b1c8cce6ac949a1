"""Losses and gradients against values computed by the published implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from tests.reference_values import cases, load, nhwc

DISTILLATION = [
    ("kd", losses.kd_loss, ("temperature",)),
    ("at", losses.at_loss, ()),
    ("sp", losses.sp_loss, ()),
    ("amd_global", losses.am_loss, ("margin",)),
    ("amd_global_local", losses.am_global_local_loss, ("margin",)),
    ("nst", losses.nst_loss, ()),
    ("ft", losses.ft_loss, ()),
    ("fitnet", losses.hint_loss, ()),
    ("rkd", losses.rkd_loss, ()),
    ("pkt", losses.pkt_loss, ()),
    ("cc", losses.cc_loss, ()),
]

pytestmark = pytest.mark.accelerator


@pytest.mark.parametrize(("name", "loss", "settings"), DISTILLATION, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_loss_and_gradient_are_those_of_the_published_code(name, loss, settings, precision):
    tolerance = 1e-4 if precision == "float32" else 1e-6
    for case in cases(name):
        values = {key: float(case[key]) for key in settings}
        with jax.enable_x64(precision == "float64"):
            student, teacher = (case[side].astype(precision) for side in ("student", "teacher"))

            def mean(student, teacher=teacher, values=values):
                return jnp.mean(loss(student, teacher, **values))

            value, gradient = map(np.asarray, jax.jit(jax.value_and_grad(mean))(student))
        assert value.dtype == precision
        # SP subtracts rows of unit norm: their rounding error eps adds 2 sqrt(SP) eps.
        rounding = 4e-7 * np.sqrt(case["loss"]) if (name, precision) == ("sp", "float32") else 0.0
        np.testing.assert_allclose(value, case["loss"], rtol=0.1 * tolerance, atol=rounding)
        error = np.linalg.norm(gradient - case["grad"]) / np.linalg.norm(case["grad"])
        assert error < tolerance


def test_am_terms_are_those_of_the_published_code():
    arrays = load("amd_terms")
    terms = losses.am_terms(
        nhwc(arrays["student"]),
        nhwc(arrays["teacher"]),
        float(arrays["margin"]),
        float(arrays["scale"]),
    )
    np.testing.assert_allclose(terms.angular.mean(), arrays["A"], rtol=1e-5)
    np.testing.assert_allclose(terms.positive.mean(), arrays["P"], rtol=1e-5)
    np.testing.assert_allclose(terms.negative.mean(), arrays["N"], rtol=1e-5)


def test_contrastive_losses_are_those_of_the_published_code():
    for case in cases("amc"):
        margin = float(case["margin"])
        value, gradient = jax.value_and_grad(losses.amc_loss)(
            case["embedding"], case["label"], margin
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            gradient, case["grad"], atol=1e-4 * max(np.linalg.norm(case["grad"]), 1e-3)
        )
        np.testing.assert_allclose(
            losses.contrastive_loss(case["embedding"], case["label"], margin),
            case["euclidean_loss"],
            rtol=1e-5,
            atol=1e-7,
        )


def test_cross_entropy_accepts_labels_and_probabilities():
    logits = jnp.asarray([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    by_hand = [np.log(np.exp([0.0, -2.0, -3.0]).sum()), np.log(3.0)]
    labels = jnp.asarray([0, 2])
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), by_hand, rtol=1e-6)
    soft = jnp.asarray([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, soft), [by_hand[0] + 1.0, np.log(3.0)], rtol=1e-6
    )


def test_cross_entropy_with_label_smoothing_equals_that_of_pytorch():
    logits = jnp.asarray([[1.0, 2.0, -1.0, 0.5], [0.0, -3.0, 2.0, 1.0]])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, jnp.asarray([1, 0]), label_smoothing=0.1),
        [0.632681906, 2.412078381],
        rtol=1e-6,
    )
    soft = jnp.asarray([[0.7, 0.3, 0.0, 0.0], [0.0, 0.25, 0.75, 0.0]])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, soft, label_smoothing=0.2),
        [1.330181837, 1.812078476],
        rtol=1e-6,
    )
