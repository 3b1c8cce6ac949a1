"""Imported networks for CIFAR have the values, statistics and gradients of the published ones."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.losses import cross_entropy
from amdjax.models import (
    Model,
    Outputs,
    create_model,
    import_torch_state_dict,
    variable_shapes,
)
from tests.reference_values import load, nhwc

Arrays = Mapping[str, np.ndarray]
Variables = dict[str, Any]

RESNET = ("stem", "stage1", "stage2", "stage3")
FOUR_STAGES = (*RESNET, "stage4")
SHUFFLENET = ("stem", "stage2", "stage3", "stage4")
# The layers of the published features, without the embedding, which is the last of them.
LAYERS = {
    "resnet8x4": RESNET,
    "resnet32x4": RESNET,
    "cifar_resnet50": FOUR_STAGES,
    "wrn_40_1": RESNET,
    "vgg8": ("stage1", "stage2", "stage3", "stage4", "stage5"),
    "mobilenet_v2_half": FOUR_STAGES,
    "shufflenet_v1": SHUFFLENET,
    "shufflenet_v2": SHUFFLENET,
}
PARAMETERS_OF_20_CLASSES = {
    "resnet8x4": 1_212_980,
    "resnet32x4": 7_413_300,
    "cifar_resnet50": 23_541_332,
    "wrn_40_1": 564_580,
    "vgg8": 3_923_988,
    "mobilenet_v2_half": 710_356,
    "shufflenet_v1": 872_378,
    "shufflenet_v2": 1_273_528,
}
# The gradients of the others take 5 to 10 s to compile.
QUICK = ("resnet8x4", "wrn_40_1", "vgg8")


class Results(NamedTuple):
    """Outputs of a network for the drawn weights and the stored images.

    Attributes:
      evaluation: outputs with the drawn running statistics.
      training: outputs with the statistics of the batch.
      statistics: running statistics after the forward pass in training, by their keys in PyTorch.
    """

    evaluation: Outputs
    training: Outputs
    statistics: Arrays


@functools.cache
def _reference(name: str) -> Arrays:
    return load(f"models/{name}")


def _torch_shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the state dict by key, in sorted order of the keys."""
    pairs = zip(arrays["names"], arrays["shapes"], strict=True)
    return {str(key): tuple(padded[padded > 0]) for key, padded in pairs}


def _draw(arrays: Arrays) -> dict[str, np.ndarray]:
    """Draws the state dict: the generator of a key has the seed (seed of the file, position)."""
    state_dict = {}
    for i, (key, shape) in enumerate(_torch_shapes(arrays).items()):
        rng = np.random.default_rng([int(arrays["seed"]), i])
        if key.endswith(("running_mean", "bias")):
            array = rng.normal(0.0, 0.1, shape)
        elif len(shape) == 1:  # running variance or scale of a batch norm
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.normal(0.0, np.sqrt(2 / np.prod(shape[1:])), shape)
        state_dict[key] = array.astype(np.float32)
    return state_dict


def _by_torch_key(name: str, collection: str, variables: Mapping[str, Any]) -> Arrays:
    """Returns a collection of a network's variables by their keys in PyTorch."""
    # The import maps an array that holds the index of its key to the variable of that key.
    shapes = _torch_shapes(_reference(name))
    indices = {
        key: np.broadcast_to(np.float32(i), shape) for i, (key, shape) in enumerate(shapes.items())
    }
    indices = import_torch_state_dict(name, indices)[collection]
    pairs = zip(jax.tree.leaves(indices), jax.tree.leaves(variables), strict=True)
    keys = list(shapes)
    return {keys[int(index.flat[0])]: np.asarray(leaf) for index, leaf in pairs}


@functools.cache
def _network(name: str) -> tuple[Model, Variables]:
    arrays = _reference(name)
    model = create_model(name, int(arrays["num_classes"]))
    return model, import_torch_state_dict(name, _draw(arrays))


def _train(model: Model, variables: Variables, images: np.ndarray) -> tuple[Outputs, Variables]:
    outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]


@functools.cache
def _compute(name: str) -> Results:
    model, variables = _network(name)

    @distributed.jit
    def evaluate_and_train(variables: Variables, images: np.ndarray) -> tuple:
        return model.apply(variables, images), _train(model, variables, images)

    images = nhwc(_reference(name)["image"])
    evaluation, (training, statistics) = evaluate_and_train(variables, images)
    return Results(evaluation, training, _by_torch_key(name, "batch_stats", statistics))


def _assert_near(value: Any, expected: np.ndarray, bound: float, message: str = "") -> None:
    """Asserts that the largest error is at most `bound` times the largest expected value."""
    error = np.abs(np.asarray(value, np.float64) - expected).max()
    assert error <= bound * np.abs(expected).max(), (message, error)


@pytest.mark.parametrize("name", LAYERS)
def test_network_has_the_published_number_of_parameters(name: str):
    arrays = _reference(name)
    for classes, expected in (
        (int(arrays["num_classes"]), int(arrays["parameters"])),
        (20, PARAMETERS_OF_20_CLASSES[name]),
    ):
        shapes = variable_shapes(create_model(name, classes))
        sizes = (leaf.size for path, leaf in shapes.items() if path.startswith("params/"))
        assert sum(sizes) == expected


@pytest.mark.parametrize("name", LAYERS)
def test_network_has_the_published_logits_and_loss(name: str):
    arrays, results = _reference(name), _compute(name)
    _assert_near(results.evaluation.logits, arrays["logits_eval"], 1e-5)
    _assert_near(results.training.logits, arrays["logits_train"], 1e-4)
    loss = cross_entropy(results.training.logits, arrays["labels"]).mean()
    np.testing.assert_allclose(loss, arrays["loss_train"], rtol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("mode", "bound"), [("eval", 1e-5), ("train", 3e-4)])
def test_network_has_the_published_features(name: str, mode: str, bound: float):
    arrays, results = _reference(name), _compute(name)
    outputs = results.evaluation if mode == "eval" else results.training
    features = [*(outputs.features[layer] for layer in LAYERS[name]), outputs.embedding]
    assert f"feature_norm_{mode}_{len(features)}" not in arrays
    for i, feature in enumerate(features):
        feature = np.asarray(feature)
        feature = feature.transpose(0, 3, 1, 2) if feature.ndim == 4 else feature
        assert feature.shape == tuple(arrays[f"feature_shape_{i}"])
        first = arrays[f"feature_first_{mode}_{i}"]
        _assert_near(feature.ravel()[: first.size], first, bound, f"feature {i}")
        norm = np.linalg.norm(feature.astype(np.float64))
        _assert_near(norm, arrays[f"feature_norm_{mode}_{i}"], bound, f"feature {i}")
        if mode == "eval" and feature.ndim == 4:
            _assert_near(feature.mean((2, 3)), arrays[f"feature_mean_eval_{i}"], bound, f"{i}")


@pytest.mark.parametrize("name", LAYERS)
def test_network_updates_the_running_statistics_as_published(name: str):
    arrays, statistics = _reference(name), _compute(name).statistics
    assert statistics.keys() == set(arrays["running_names"])
    for key, norm in zip(arrays["running_names"], arrays["running_norm_after"], strict=True):
        _assert_near(np.linalg.norm(statistics[key]), norm, 1e-4, key)
    for i, key in enumerate(arrays["batch_norm_names"]):
        for leaf in ("mean", "var"):
            expected = arrays[f"running_{leaf}_after_{i}"]
            _assert_near(statistics[f"{key}.running_{leaf}"], expected, 1e-4, key)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYERS],
)
def test_network_has_the_published_gradients(name: str):
    """Within a tenth: the sign of one ReLU input near zero changes gradients by up to 3 %."""
    arrays = _reference(name)
    model, variables = _network(name)

    @distributed.jit
    def gradient(params: Variables, images: np.ndarray) -> Variables:
        def loss(params: Variables) -> jax.Array:
            outputs, _ = _train(model, {**variables, "params": params}, images)
            return cross_entropy(outputs.logits, arrays["labels"]).mean()

        return jax.grad(loss)(params)

    gradients = gradient(variables["params"], nhwc(arrays["image"]))
    gradients = _by_torch_key(name, "params", gradients)
    assert gradients.keys() == set(arrays["parameter_names"])
    largest = arrays["grad_norm"].max()
    for key, expected in zip(arrays["parameter_names"], arrays["grad_norm"], strict=True):
        # Biases before a batch norm have the gradient 0.
        bound = max(0.1 * expected, 1e-5 * largest)
        assert abs(np.linalg.norm(gradients[key]) - expected) <= bound, key
    for part in ("first", "last"):
        key, expected = str(arrays[f"grad_{part}_name"]), arrays[f"grad_{part}"]
        value = gradients[key]
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        assert np.linalg.norm(value - expected) <= 0.1 * np.linalg.norm(expected), key
