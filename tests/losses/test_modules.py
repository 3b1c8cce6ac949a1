"""Losses with variables: values of the published code, and updates of the variables."""

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
from tests.losses.random_arrays import draw
from tests.reference_values import load, nhwc


def _relative_error(gradient: jax.Array, reference: np.ndarray) -> float:
    return np.linalg.norm(gradient - reference) / np.linalg.norm(reference)


def test_vid_value_and_gradient_are_those_of_the_published_code():
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
    assert _relative_error(gradient, nhwc(arrays["grad"])) < 1e-4


def test_vid_variance_starts_at_the_published_value():
    student, teacher = draw(2, 4, 4, 3), draw(2, 4, 4, 5, seed=1)
    params = VariationalInformation().init(jax.random.key(0), student, teacher)["params"]
    np.testing.assert_allclose(jax.nn.softplus(params["log_scale"]) + 1e-5, 5.0, rtol=1e-6)
    np.testing.assert_allclose(params["log_scale"], load("vid")["log_scale"][0], rtol=1e-5)


def test_afds_attention_starts_from_the_published_distribution():
    feature = draw(1, 2, 2, 128)
    params = AttentiveFeature().init(jax.random.key(0), feature, feature)["params"]
    for name in ("attention_0", "attention_1"):  # Kaiming normal, by the number of outputs
        np.testing.assert_allclose(params[name]["kernel"].std(), (2 / 128) ** 0.5, rtol=0.03)


def test_afd_value_and_gradient_are_those_of_the_published_code():
    arrays = load("afd")
    prefix = "param_attention_"
    params = {"p_t": arrays[f"{prefix}p_t"], "p_s": arrays[f"{prefix}p_s"]}
    names = {
        "bilinear": "linear_trans_s_bilinear",
        **{f"key_{i}": f"linear_trans_s_key_layer_{i}" for i in (0, 1)},
        **{f"query_{i}": f"linear_trans_t_query_layer_{i}" for i in (0, 1)},
    }
    for name, published in names.items():
        params[f"{name}_linear"] = {
            "kernel": arrays[f"{prefix}{published}_linear_weight"].T,
            "bias": arrays[f"{prefix}{published}_linear_bias"],
        }
        params[f"{name}_scale"] = arrays[f"{prefix}{published}_bn_weight"]
        params[f"{name}_bias"] = arrays[f"{prefix}{published}_bn_bias"]
    teacher = [summarize(nhwc(arrays[f"teacher_{i}"])) for i in (0, 1)]

    def loss(features):
        student = [summarize(feature) for feature in features]
        return AttentionFeatureMatching(16).apply({"params": params}, student, teacher)

    features = [nhwc(arrays[f"student_{i}"]) for i in (0, 1)]
    value, gradients = jax.value_and_grad(loss)(features)
    np.testing.assert_allclose(value, arrays["loss"], rtol=1e-5)
    for i in (0, 1):
        assert _relative_error(gradients[i], nhwc(arrays[f"grad_{i}"])) < 1e-4


def test_afds_is_the_printed_formula():
    student, teacher = draw(3, 4, 4, 2), draw(3, 8, 8, 2, seed=1)
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


def test_afds_is_finite_where_every_sigmoid_is_zero_in_float32():
    student, teacher = draw(3, 4, 4, 2), draw(3, 4, 4, 2, seed=1)
    variables = AttentiveFeature().init(jax.random.key(0), student, teacher)

    def loss(bias: float) -> jax.Array:
        equal = {"kernel": jnp.zeros((2, 2)), "bias": jnp.full(2, bias)}
        params = {**variables["params"], "attention_1": equal}
        return AttentiveFeature().apply({"params": params}, student, teacher)

    np.testing.assert_allclose(loss(-200.0), loss(0.0), rtol=1e-6)
    assert np.isfinite(jax.grad(lambda bias: loss(bias).sum())(-200.0))


def test_afds_refuses_unequal_channels_without_an_adapter():
    student, teacher = draw(2, 4, 4, 3), draw(2, 4, 4, 5)
    with pytest.raises(
        UserError, match=r"the student has 3 channels and the teacher 5: set .*adapter=True"
    ):
        AttentiveFeature().init(jax.random.key(0), student, teacher)
    module = AttentiveFeature(adapter=True)
    variables = module.init(jax.random.key(0), student, teacher)
    assert variables["params"]["adapter"]["kernel"].shape == (1, 1, 3, 5)
    assert module.apply(variables, student, teacher).shape == (2,)


def test_fitnet_is_hint_loss_after_its_adapter():
    student, teacher = draw(4, 4, 4, 3), draw(4, 4, 4, 5, seed=1)
    variables = FitNet().init(jax.random.key(0), student, teacher)
    adapter = variables["params"]["adapter"]
    adapted = student @ adapter["kernel"][0, 0] + adapter["bias"]
    np.testing.assert_allclose(
        FitNet().apply(variables, student, teacher), hint_loss(adapted, teacher), rtol=1e-5
    )


def test_correlation_congruence_is_cc_loss_after_its_linear_layers():
    student, teacher = draw(4, 3), draw(4, 5, seed=1)
    module = CorrelationCongruence(dimension=6)
    variables = module.init(jax.random.key(0), student, teacher)
    mapped = [
        x @ variables["params"][side]["kernel"] + variables["params"][side]["bias"]
        for side, x in (("student", student), ("teacher", teacher))
    ]
    np.testing.assert_allclose(
        module.apply(variables, student, teacher), cc_loss(*mapped), rtol=1e-5
    )


def test_cc_loss_of_one_sample_is_zero_with_a_finite_gradient():
    student, teacher = draw(1, 3), draw(1, 3, seed=1)
    value, gradient = jax.value_and_grad(cc_loss)(student, teacher)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_center_updates_its_centres_without_gradients():
    embedding, logits = draw(6, 3), jnp.zeros((6, 4))
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
    _, updates = module.apply(variables, embedding, logits, labels, mutable=["state"])
    stepped = centers - 0.5 * jax.grad(by_hand)(centers)
    np.testing.assert_allclose(updates["state"]["centers"], stepped, rtol=1e-5)
    np.testing.assert_array_equal(updates["state"]["centers"][2], centers[2])


@pytest.mark.parametrize(
    "module",
    [VariationalInformation(), AttentiveFeature(), FitNet(), AttentiveFeature(adapter=True)],
)
def test_modules_of_zero_features_are_finite_without_teacher_gradient(module):
    student, teacher = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3))
    variables = module.init(jax.random.key(0), student, teacher)

    def total(student, teacher):
        return module.apply(variables, student, teacher).sum()

    value, (gradient, teacher_gradient) = jax.value_and_grad(total, (0, 1))(student, teacher)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(teacher_gradient, 0.0)
