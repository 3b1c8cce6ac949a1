"""Exported PyTorch weights have the names and shapes of the published definitions."""

from typing import Any

import flax.traverse_util
import jax
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.export.torch_weights import to_torch_state_dict
from amdjax.models import create_model, import_torch_state_dict, register_model, variable_shapes
from amdjax.models.resnet import CifarResNet
from tests.export.random_variables import draw_variables
from tests.models.test_published_networks import LAYERS
from tests.reference_values import load, prefixed

# One of each family of names, with those whose published keys are not stored here.
FAMILIES = (*LAYERS, "resnet18", "mobilenet_v2")


def _variables(name: str, num_classes: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = variable_shapes(create_model(name, num_classes))
    flat = {path: rng.random(leaf.shape, np.float32) for path, leaf in shapes.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _without_counters(keys: Any) -> set[str]:
    return {key for key in map(str, keys) if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", FAMILIES)
def test_torch_state_dict_is_published_and_imports_exactly(name):
    classes = int(load(f"models/{name}")["num_classes"]) if name in LAYERS else 7
    variables = _variables(name, classes)
    state_dict = to_torch_state_dict(name, variables)
    if name in LAYERS:
        published = load(f"models/{name}")
        shapes = {
            str(key): tuple(padded[padded > 0])
            for key, padded in zip(published["names"], published["shapes"], strict=True)
        }
        assert state_dict.keys() == _without_counters(shapes)
        assert {key: array.shape for key, array in state_dict.items()} == {
            key: shapes[key] for key in state_dict
        }
    imported = flax.traverse_util.flatten_dict(import_torch_state_dict(name, state_dict))
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        np.testing.assert_array_equal(imported[path], leaf)


def test_torch_state_dict_needs_a_published_definition():
    class Mine(CifarResNet):
        """A network of the user's, which may have other layers."""

        depth: int = 8

    register_model("my_vgg", "a network")(Mine)
    for name in ("conv13", "amc_net", "my_vgg"):
        with pytest.raises(UserError, match=f"{name} has no published PyTorch definition"):
            to_torch_state_dict(name, {})


@pytest.mark.parametrize("name", ["wrn_16_1", "resnet20"])
def test_torch_state_dict_has_the_published_values(name):
    published = prefixed(load(f"model_{name}"), "param")
    state_dict = to_torch_state_dict(name, import_torch_state_dict(name, published))
    for key in _without_counters(published):
        np.testing.assert_array_equal(state_dict[key], published[key])


def test_torch_state_dict_has_the_names_of_tgd_and_torchvision():
    mobilenet = to_torch_state_dict("MobileNetV2", _variables("mobilenet_v2", 3))
    assert mobilenet["classifier.1.weight"].shape == (3, 640)
    assert mobilenet["features1.1.conv.0.0.weight"].shape == (8, 1, 3, 3)
    resnet = to_torch_state_dict("resnet18", _variables("resnet18", 3))
    assert resnet["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert resnet["fc.weight"].shape == (3, 512)


def test_torchvision_loads_the_state_dict_and_computes_the_logits():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    model = create_model("resnet18", 3)
    variables = draw_variables(model, 64)
    network = torchvision.models.resnet18(num_classes=3)
    state_dict = to_torch_state_dict("resnet18", variables)
    network.load_state_dict({key: torch.from_numpy(array) for key, array in state_dict.items()})
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(model.apply)(variables, images).logits)
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
