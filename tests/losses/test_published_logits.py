"""Losses of logits and embeddings against values of the published implementations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.losses.center import Center
from amdjax.losses.wkd import wkd_class_weight_loss
from tests.losses.random_arrays import draw
from tests.reference_values import cases, load

# file: (function, takes labels, argument -> key of the file)
LOGITS: dict[str, tuple[Callable, bool, dict[str, str]]] = {
    "kd_ls": (losses.kd_loss, False, {"temperature": "temperature"}),
    "dkd": (
        losses.dkd_loss,
        True,
        {"temperature": "temperature", "target_weight": "alpha", "other_weight": "beta"},
    ),
    "dkd_ls": (
        losses.dkd_loss,
        True,
        {"temperature": "temperature", "target_weight": "alpha", "other_weight": "beta"},
    ),
    "dist": (
        losses.dist_loss,
        False,
        {"temperature": "tau", "inter_weight": "beta", "intra_weight": "gamma"},
    ),
    "nkd": (losses.nkd_loss, True, {"gamma": "gamma", "temperature": "temperature"}),
    "rld": (
        losses.rld_loss,
        True,
        {
            "temperature": "temperature",
            "target_temperature": "alpha_temperature",
            "target_weight": "alpha",
            "other_weight": "beta",
            "standardize": "standardize",
        },
    ),
    "ttm": (losses.ttm_loss, False, {"gamma": "gamma"}),
    "wttm": (losses.wttm_loss, False, {"gamma": "gamma"}),
    "wkd_l": (
        losses.wkd_logit_loss,
        True,
        {
            "cost": "cost",
            "temperature": "temperature",
            "gamma": "gamma",
            "regularization": "regularisation",
            "iterations": "iterations",
        },
    ),
}


def _arguments(case: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    return {name: case[key] if case[key].ndim else case[key].item() for name, key in keys.items()}


@pytest.mark.parametrize("name", LOGITS)
def test_logit_loss_has_the_published_values_and_gradients(name):
    loss, takes_labels, keys = LOGITS[name]
    for case in cases(f"methods/{name}"):
        arguments = _arguments(case, keys)
        if name.endswith("_ls"):
            arguments["standardize"] = True
        labels = (case["labels"],) if takes_labels else ()

        def mean(student, case=case, labels=labels, arguments=arguments):
            value = loss(student, case["teacher"], *labels, **arguments)
            return jnp.mean(value), value

        (value, per_sample), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(
            case["student"]
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        if "per_sample" in case:
            largest = np.abs(case["per_sample"]).max()
            np.testing.assert_allclose(per_sample, case["per_sample"], atol=1e-5 * largest)
        # Two standardised logits are +-0.7, whatever they were: only the 1e-7 leaves a gradient.
        vanishing = name.endswith("_ls") and case["student"].shape[1] == 2
        largest = 0.1 if vanishing else np.abs(case["grad"]).max()
        np.testing.assert_allclose(gradient, case["grad"], rtol=0, atol=1e-4 * largest)


def test_class_cost_is_the_published_matrix():
    arrays = load("methods/wkd_cost")
    for k in (0, 3, 4, 5):
        cost = losses.class_cost(arrays[f"class_weights_{k}"].T, arrays[f"sharpen_{k}"].item())
        np.testing.assert_allclose(cost, arrays[f"cost_{k}"], rtol=1e-5, atol=1e-6)


def test_wkd_class_weight_loss_is_the_loss_of_their_cost():
    for case in cases("methods/wkd_l"):
        logits = case["student"], case["teacher"], case["labels"]
        weights = draw(6, case["student"].shape[1])
        settings = {"temperature": 3.0, "gamma": 7.0, "regularization": 0.2, "iterations": 4}
        loss = wkd_class_weight_loss(*logits, weights, **settings, sharpening=2.0)
        expected = losses.wkd_logit_loss(*logits, losses.class_cost(weights, 2.0), **settings)
        np.testing.assert_array_equal(loss, expected)


def _a_softmax(embedding: jax.Array, weights: jax.Array, labels: jax.Array, case: dict) -> Any:
    keys = {"margin": "margin", "base": "base", "decay": "decay", "least": "floor"}
    arguments = _arguments(case, keys)
    return losses.a_softmax_loss(embedding, weights, labels, case["iteration"], **arguments)


def _arcface(embedding: jax.Array, weights: jax.Array, labels: jax.Array, case: dict) -> Any:
    arguments = _arguments(case, {"margin": "margin", "scale": "scale"})
    return losses.arcface_loss(embedding, weights, labels, **arguments)


def _cosface(embedding: jax.Array, weights: jax.Array, labels: jax.Array, case: dict) -> Any:
    arguments = _arguments(case, {"margin": "margin", "scale": "scale"})
    return losses.cosface_loss(embedding, weights, labels, **arguments)


@pytest.mark.parametrize(
    ("name", "loss"), [("sphereface", _a_softmax), ("arcface", _arcface), ("cosface", _cosface)]
)
def test_margin_loss_has_the_published_values_and_gradients(name, loss):
    for case in cases(f"methods/{name}"):
        if case.get("easy_margin", 0):
            continue  # an option that `arcface_loss` does not have

        def mean(embedding, weights, case=case):
            value = loss(embedding, weights, case["labels"], case)
            return jnp.mean(value), value

        (value, per_sample), gradients = jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(
            case["embedding"], case["class_weights"].T
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        largest = np.abs(case["per_sample"]).max()
        np.testing.assert_allclose(per_sample, case["per_sample"], atol=1e-5 * largest)
        expected = (case["grad"], case["grad_class_weights"].T)
        for gradient, reference in zip(gradients, expected, strict=True):
            largest = np.abs(reference).max()
            np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-4 * largest)


def test_center_has_the_published_values_gradients_and_centres():
    for case in cases("methods/center"):
        centers, embedding = jnp.asarray(case["centers"]), jnp.asarray(case["embedding"])
        module = Center(rate=case["center_rate"].item())
        logits = jnp.zeros((len(embedding), len(centers)))

        def mean(embedding, case=case, centers=centers, module=module, logits=logits):
            loss, updates = module.apply(
                {"state": {"centers": centers}},
                embedding,
                logits,
                case["labels"],
                mutable=["state"],
            )
            return jnp.mean(loss), updates["state"]["centers"]

        (value, updated), gradient = jax.value_and_grad(mean, has_aux=True)(embedding)
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        largest = np.abs(case["grad"]).max()
        np.testing.assert_allclose(gradient, case["grad"], rtol=0, atol=1e-4 * largest)
        np.testing.assert_allclose(updated, case["centers_after"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOGITS if name != "kd_ls"])
def test_logit_loss_sends_no_gradient_to_the_teacher(name):
    loss, takes_labels, _ = LOGITS[name]
    student, teacher = draw(2, 4, 5)
    labels = (jnp.asarray([0, 4, 2, 2]),) if takes_labels else ()
    cost = (1.0 - jnp.eye(5),) if name == "wkd_l" else ()
    gradient = jax.grad(lambda t: jnp.sum(loss(student, t, *labels, *cost)))(teacher)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("name", ["nkd", "rld", "ttm", "wttm", "wkd_l"])
def test_logit_loss_of_saturated_softmax_is_finite(name):
    loss, takes_labels, _ = LOGITS[name]
    student = 1e4 * jax.nn.one_hot(jnp.arange(4) % 3, 3)
    teacher = 1e4 * jax.nn.one_hot((jnp.arange(4) + 1) % 3, 3)
    labels = (jnp.arange(4) % 3,) if takes_labels else ()
    cost = (1.0 - jnp.eye(3),) if name == "wkd_l" else ()
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(loss(s, teacher, *labels, *cost)))(
        student
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_rld_loss_masks_the_classes_above_the_true_class():
    teacher = jnp.asarray([[3.0, 2.0, 1.0, 0.0]])
    student = draw(1, 4)
    changed = student.at[0, 0].add(5.0)  # ranked above the true class 1
    values = [
        losses.rld_loss(s, teacher, jnp.asarray([1]), target_weight=0.0) for s in (student, changed)
    ]
    np.testing.assert_allclose(*values, rtol=1e-6)
    lowest = losses.rld_loss(student, teacher, jnp.asarray([3]), target_weight=0.0)
    np.testing.assert_array_equal(lowest, 0.0)


def test_wkd_logit_loss_has_the_cost_of_the_transport_from_student_to_teacher():
    student, teacher = (1e4 * jax.nn.one_hot(jnp.asarray([k]), 3) for k in (1, 2))
    cost = jnp.ones((3, 3)).at[2, 1].set(3.0)
    loss = losses.wkd_logit_loss(
        student, teacher, jnp.asarray([0]), cost, gamma=1.0, regularization=1.0
    )
    np.testing.assert_allclose(loss, cost[1, 2], rtol=1e-4)
