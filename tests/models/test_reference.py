"""Imported PyTorch models have the values, statistics and gradients of PyTorch."""

import functools
import re

import jax
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.losses import cross_entropy
from amdjax.models import count_parameters, create_model, import_torch_state_dict
from tests.reference_values import load, nhwc, prefixed

NAMES = ["wrn_16_1", "resnet20"]


def _setup(name):
    arrays = load(f"model_{name}")
    state_dict = prefixed(arrays, "param")
    return arrays, state_dict, import_torch_state_dict(name, state_dict), create_model(name, 10)


@functools.cache  # compiled once for all tests
def _evaluate(name):
    arrays, _, variables, model = _setup(name)
    return jax.jit(model.apply)(variables, nhwc(arrays["image"]))


@pytest.mark.accelerator
@pytest.mark.parametrize("name", NAMES)
def test_imported_model_has_the_logits_and_statistics_of_pytorch(name: str):
    arrays, state_dict, variables, model = _setup(name)
    np.testing.assert_allclose(_evaluate(name).logits, arrays["logits_eval"], atol=1e-4)
    train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    outputs, updates = jax.jit(train)(variables, nhwc(arrays["image"]))
    np.testing.assert_allclose(outputs.logits, arrays["logits_train"], atol=1e-4)
    after = import_torch_state_dict(name, {**state_dict, **prefixed(arrays, "after_train")})
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        updates["batch_stats"],
        after["batch_stats"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_imported_model_has_the_number_of_parameters_of_pytorch(name: str):
    arrays, _, variables, _ = _setup(name)
    assert count_parameters(variables) == arrays["n_params"]


@pytest.mark.accelerator
def test_wide_resnet_has_the_features_of_pytorch():
    arrays, features = load("model_wrn_16_1"), _evaluate("wrn_16_1").features
    for i, layer in enumerate(("stage1", "stage2", "stage3")):
        np.testing.assert_allclose(features[layer][:1], nhwc(arrays[f"feat_eval_{i}"]), atol=1e-4)


def test_resnet_has_the_feature_norms_of_pytorch():
    arrays, features = load("model_resnet20"), _evaluate("resnet20").features
    for i, layer in enumerate(("stage1", "stage2", "stage3")):
        np.testing.assert_allclose(
            np.linalg.norm(features[layer]), arrays[f"feat_eval_norm_{i}"], rtol=1e-5
        )


@pytest.mark.accelerator
def test_wide_resnet_has_the_cross_entropy_gradients_of_pytorch():
    arrays, state_dict, variables, model = _setup("wrn_16_1")

    def loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params},
            nhwc(arrays["image"]),
            train=True,
            mutable=["batch_stats"],
        )
        return cross_entropy(outputs.logits, arrays["label"]).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, arrays["loss_train"], rtol=1e-5)
    theirs = import_torch_state_dict("wrn_16_1", {**state_dict, **prefixed(arrays, "grad")})
    errors = jax.tree.map(
        lambda a, b: float(np.linalg.norm(a - b) / np.linalg.norm(b)), gradient, theirs["params"]
    )
    assert max(jax.tree.leaves(errors)) < 1e-4


def _without(key):
    return lambda weights: {k: v for k, v in weights.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("block2.layer.1.bn2.weight"), "'block2.layer.1.bn2.weight' is missing"),
        (_without("fc.weight"), "'fc.weight' is missing"),
        (lambda w: {**w, "conv1.weight": np.zeros((16, 3, 5, 5))}, r"'conv1.weight' has the shape"),
        (lambda w: {**w, "fc2.weight": np.zeros((1, 1))}, "unexpected 'fc2.weight'"),
    ],
)
def test_import_torch_state_dict_names_the_key(change, message: str):
    state_dict = prefixed(load("model_wrn_16_1"), "param")
    with pytest.raises(UserError, match=message):
        import_torch_state_dict("wrn_16_1", change(state_dict))


class _Tensor:
    """What NumPy sees of a PyTorch tensor that it cannot read."""

    def __init__(self, error):
        self.error = error

    def __array__(self, *_, **__):
        raise self.error

    def detach(self):
        return self


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Got unsupported ScalarType BFloat16"),
        RuntimeError("Can't call numpy() on Tensor that requires grad."),
    ],
)
def test_import_torch_state_dict_says_how_to_pass_a_tensor(error):
    message = rf"'fc\.bias' is not an .*\({re.escape(str(error))}\); pass value\.detach\(\)"
    with pytest.raises(UserError, match=message):
        import_torch_state_dict("resnet20", {"fc.bias": _Tensor(error)})


def test_import_torch_state_dict_removes_the_prefix_of_data_parallel():
    _, state_dict, variables, _ = _setup("resnet20")
    prefix = {f"module.{key}": value for key, value in state_dict.items()}
    again = import_torch_state_dict("resnet20", prefix)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
