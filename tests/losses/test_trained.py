"""Losses with variables of their own: values of the published code, and how they move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.losses import cc_loss, hint_loss
from amdjax.losses.afd import AttentionFeatureMatching, summarize
from amdjax.losses.afds import AttentiveFeature
from amdjax.losses.cc import CorrelationCongruence
from amdjax.losses.center import Center
from amdjax.losses.fitnet import FitNet
from amdjax.losses.vid import VariationalInformation
from tests.reference_values import load, nhwc


def _draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _relative(gradient, reference):
    return np.linalg.norm(gradient - reference) / np.linalg.norm(reference)


def test_vid():
    arrays = load("vid")
    params = {"log_scale": arrays["log_scale"]}
    for i in range(3):
        kernel = arrays[f"regressor_{2 * i}_weight"].transpose(2, 3, 1, 0)
        params[f"regressor_{i}"] = {"kernel": kernel}

    def mean(student):
        loss = VariationalInformation().apply({"params": params}, student, nhwc(arrays["teacher"]))
        assert loss.shape == (4,)
        return loss.mean()

    value, gradient = jax.value_and_grad(mean)(nhwc(arrays["student"]))
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    assert _relative(gradient, nhwc(arrays["grad"])) < 1e-4


def test_vid_starts_at_the_published_variance():
    student, teacher = _draw(2, 4, 4, 3), _draw(2, 4, 4, 5, seed=1)
    params = VariationalInformation().init(jax.random.key(0), student, teacher)["params"]
    np.testing.assert_allclose(jax.nn.softplus(params["log_scale"]) + 1e-5, 5.0, rtol=1e-6)
    np.testing.assert_allclose(params["log_scale"], load("vid")["log_scale"][0], rtol=1e-5)


def test_afd():
    arrays = load("afd")
    prefix = "param_attention_"
    params = {"p_t": arrays[f"{prefix}p_t"], "p_s": arrays[f"{prefix}p_s"]}
    names = {
        "bilinear": "linear_trans_s_bilinear",
        **{f"key_{i}": f"linear_trans_s_key_layer_{i}" for i in (0, 1)},
        **{f"query_{i}": f"linear_trans_t_query_layer_{i}" for i in (0, 1)},
    }
    for ours, theirs in names.items():
        params[f"{ours}_linear"] = {
            "kernel": arrays[f"{prefix}{theirs}_linear_weight"].T,
            "bias": arrays[f"{prefix}{theirs}_linear_bias"],
        }
        params[f"{ours}_scale"] = arrays[f"{prefix}{theirs}_bn_weight"]
        params[f"{ours}_bias"] = arrays[f"{prefix}{theirs}_bn_bias"]
    teacher = [summarize(nhwc(arrays[f"teacher_{i}"])) for i in (0, 1)]

    def loss(features):
        student = [summarize(feature) for feature in features]
        return AttentionFeatureMatching(16).apply({"params": params}, student, teacher)

    features = [nhwc(arrays[f"student_{i}"]) for i in (0, 1)]
    value, gradients = jax.value_and_grad(loss)(features)
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    for i in (0, 1):
        assert _relative(gradients[i], nhwc(arrays[f"grad_{i}"])) < 1e-4


def test_afds_by_hand():
    student, teacher = _draw(3, 4, 4, 2), _draw(3, 8, 8, 2, seed=1)
    module = AttentiveFeature()
    variables = module.init(jax.random.key(0), student, teacher)
    value = module.apply(variables, student, teacher)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    s = np.asarray(student, np.float64)
    t = np.asarray(teacher, np.float64).reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
    hidden = t.mean((1, 2)) @ params["attention_0"]["kernel"] + params["attention_0"]["bias"]
    hidden = np.maximum(hidden, 0) @ params["attention_1"]["kernel"] + params["attention_1"]["bias"]
    rho = 1 / (1 + np.exp(-hidden))
    rho /= rho.sum(1, keepdims=True)
    for x in (s, t):
        x /= np.sqrt((x**2).sum((1, 2), keepdims=True)) + 1e-6
    np.testing.assert_allclose(value, (rho * ((s - t) ** 2).mean((1, 2))).sum(1), rtol=1e-5)


def test_afds_needs_equal_channels_or_an_adapter():
    student, teacher = _draw(2, 4, 4, 3), _draw(2, 4, 4, 5)
    with pytest.raises(UserError, match=r"the student has 3 and the teacher 5: set .*adapter=True"):
        AttentiveFeature().init(jax.random.key(0), student, teacher)
    module = AttentiveFeature(adapter=True)
    variables = module.init(jax.random.key(0), student, teacher)
    assert variables["params"]["adapter"]["kernel"].shape == (1, 1, 3, 5)
    assert module.apply(variables, student, teacher).shape == (2,)


def test_hint_and_cc_are_the_plain_losses_behind_their_layers():
    student, teacher = _draw(4, 4, 4, 3), _draw(4, 4, 4, 5, seed=1)
    variables = FitNet().init(jax.random.key(0), student, teacher)
    adapter = variables["params"]["adapter"]
    adapted = student @ adapter["kernel"][0, 0] + adapter["bias"]
    np.testing.assert_allclose(
        FitNet().apply(variables, student, teacher), hint_loss(adapted, teacher), rtol=1e-5
    )
    student, teacher = _draw(4, 3), _draw(4, 5, seed=1)
    module = CorrelationCongruence(dimension=6)
    variables = module.init(jax.random.key(0), student, teacher)
    both = [
        x @ variables["params"][side]["kernel"] + variables["params"][side]["bias"]
        for side, x in (("student", student), ("teacher", teacher))
    ]
    np.testing.assert_allclose(module.apply(variables, student, teacher), cc_loss(*both), rtol=1e-5)


def test_centers_descend_by_themselves():
    embedding, logits = _draw(6, 3), jnp.zeros((6, 4))
    labels = jnp.asarray([0, 1, 1, 3, 0, 1])
    module = Center(rate=0.5)
    variables = module.init(jax.random.key(0), embedding, logits, labels)
    assert set(variables) == {"state"}
    centers = variables["state"]["centers"]

    def mean(centers, embedding):
        loss, _ = module.apply(
            {"state": {"centers": centers}}, embedding, logits, labels, mutable=["state"]
        )
        return loss.mean()

    def by_hand(centers):
        return jnp.mean(jnp.sum((embedding - centers[labels]) ** 2, axis=1))

    np.testing.assert_allclose(mean(centers, embedding), by_hand(centers), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(mean)(centers, embedding), 0.0)
    expected = 2 * (embedding - centers[labels]) / 6
    np.testing.assert_allclose(jax.grad(mean, 1)(centers, embedding), expected, rtol=1e-5)
    _, moved = module.apply(variables, embedding, logits, labels, mutable=["state"])
    stepped = centers - 0.5 * jax.grad(by_hand)(centers)
    np.testing.assert_allclose(moved["state"]["centers"], stepped, rtol=1e-5)
    np.testing.assert_array_equal(moved["state"]["centers"][2], centers[2])


@pytest.mark.parametrize(
    "module",
    [VariationalInformation(), AttentiveFeature(), FitNet(), AttentiveFeature(adapter=True)],
)
def test_dead_maps_stay_finite_and_the_teacher_has_no_gradient(module):
    student, teacher = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3))
    variables = module.init(jax.random.key(0), student, teacher)

    def total(student, teacher):
        return module.apply(variables, student, teacher).sum()

    value, (gradient, to_teacher) = jax.value_and_grad(total, (0, 1))(student, teacher)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(to_teacher, 0.0)
