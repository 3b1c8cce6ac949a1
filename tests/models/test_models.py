"""Sizes of the published models; values and behaviour on a small network of each family."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from amdjax import distributed
from amdjax.errors import UserError
from amdjax.models import (
    BatchNorm,
    Model,
    Outputs,
    canonical_model_name,
    check_variable_shapes,
    count_parameters,
    create_model,
    import_torch_state_dict,
    init_variables,
    variable_shapes,
)
from amdjax.models.convnet import ConvNet
from amdjax.models.mobilenet import MobileNetV2, MobileNetV2Half
from amdjax.models.resnet import CifarResNet, ImageNetResNet
from amdjax.models.shufflenet import ShuffleNetV1, ShuffleNetV2, channel_shuffle
from amdjax.models.vgg import VGG
from amdjax.models.wrn import WideResNet

RESNET = (32, 16, 8)
IMAGENET = (8, 4, 2, 1)


class Expected(NamedTuple):
    """What is known of a model.

    Attributes:
      classes: for which the parameters were counted.
      parameters: published, or computed from the published definitions.
      pixels: side of the features "stage1", ... for inputs of 32x32.
      channels: of these features.
      pixels_64: their side for inputs of 64x64; None: twice that for 32x32.
      stem: factor by which the feature "stem" is smaller than the input.
    """

    classes: int
    parameters: int
    pixels: tuple[int, ...]
    channels: tuple[int, ...]
    pixels_64: tuple[int, ...] | None = None
    stem: int = 1


def _wide(widen: int, parameters: int) -> Expected:
    return Expected(10, parameters, RESNET, (16 * widen, 32 * widen, 64 * widen))


# By hand, C classes:
# - vgg: each 3x3 convolution from i to o channels 9io + o, its norm 2o; 513C.
#   vgg8: 9 (3*64 + 64*128 + 128*256 + 256*512 + 512*512) + 3 (64 + 128 + 256 + 512 + 512) + 513C;
#   vgg13 adds 9w^2 + 3w for the width w of every block, vgg16 the same again for the last three.
# - mobilenet_v2: stem 27*8 + 16; a block from i to o channels with h = ti hidden ones: (ih + 2h if
#   t > 1) + 9h + 2h + ho + 2o, the 17 blocks together 479,704; last 160*640 + 1,280; 641C.
# - shufflenet_v2 (1,355,528 in RepDistiller too): stem 3*24 + 48; a stage's first unit from i to 2m
#   channels (9i + 2i + im + 2m) + (im + 2m + 9m + 2m + mm + 2m), each other one 2mm + 15m:
#   7,398 + 3*7,598 = 30,192, 43,616 + 7*28,652 = 244,180, 167,968 + 3*111,128 = 501,352; last
#   464*1,024 + 2,048; 1,025C.
# - amc_net: 27*64 + 2*9*64^2 + 9*64*128 + 2*9*128^2 + 9*128*256 + 256*128 = 771,776 weights;
#   a bias of its norm for each channel, 3*64 + 3*128 + 256 + 128 = 960; 129C.
# - conv13: 27*128 + 2*9*128^2 + 9*128*256 + 2*9*256^2 + 9*256*512 + 512*256 + 256*128 = 3,116,416;
#   3*128 + 3*256 + 512 + 256 + 128 = 2,048; 129C.
EXPECTED = {
    "wrn_16_1": _wide(1, 175_066),
    "wrn_16_2": _wide(2, 691_674),
    "wrn_16_3": _wide(3, 1_549_530),
    "wrn_16_8": _wide(8, 10_961_370),
    "wrn_28_1": _wide(1, 369_498),
    "wrn_28_3": _wide(3, 3_294_042),
    "wrn_40_1": _wide(1, 563_930),
    "wrn_40_2": _wide(2, 2_243_546),
    "resnet20": _wide(1, 272_474),
    "resnet26": _wide(1, 369_690),
    "resnet44": _wide(1, 661_338),
    "resnet56": _wide(1, 855_770),
    "resnet80": _wide(1, 1_244_634),
    "resnet110": _wide(1, 1_730_714),
    "resnet8x4": Expected(100, 1_233_540, RESNET, (64, 128, 256)),
    "resnet32x4": Expected(100, 7_433_860, RESNET, (64, 128, 256)),
    "resnet18": Expected(1000, 11_689_512, IMAGENET, (64, 128, 256, 512), stem=4),
    "resnet34": Expected(1000, 21_797_672, IMAGENET, (64, 128, 256, 512), stem=4),
    "resnet50": Expected(1000, 25_557_032, IMAGENET, (256, 512, 1024, 2048), stem=4),
    "cifar_resnet50": Expected(100, 23_705_252, (32, 16, 8, 4), (256, 512, 1024, 2048)),
    **{
        name: Expected(
            10, parameters, (32, 16, 8, 4, 4), (64, 128, 256, 512, 512), (64, 32, 16, 8, 4)
        )
        for name, parameters in (
            ("vgg8", 3_918_858),
            ("vgg13", 9_416_010),
            ("vgg16", 14_728_266),
        )
    },
    "mobilenet_v2": Expected(10, 590_026, RESNET, (16, 48, 640)),
    "mobilenet_v2_half": Expected(100, 812_836, (16, 8, 4, 2), (12, 16, 48, 160), stem=2),
    "shufflenet_v1": Expected(100, 949_258, (32, 16, 8, 4), (24, 240, 480, 960)),
    "shufflenet_v2": Expected(100, 1_355_528, (32, 16, 8, 4), (24, 116, 232, 464)),
    "amc_net": Expected(10, 774_026, (32, 16, 6), (64, 128, 128), (64, 32, 14)),
    "conv13": Expected(10, 3_119_754, (32, 16, 6), (128, 256, 128), (64, 32, 14)),
}
# One of each definition; the others differ in depth and width.
DEFINITIONS = (
    "wrn_16_3",
    "resnet20",
    "resnet18",
    "resnet50",
    "vgg8",
    "cifar_resnet50",
    "mobilenet_v2",
    "mobilenet_v2_half",
    "shufflenet_v1",
    "shufflenet_v2",
    "amc_net",
)
SMALL: dict[str, Model] = {
    "wrn": WideResNet(10, 1, num_classes=4),
    "resnet": CifarResNet(8, num_classes=4),
    "imagenet_resnet": ImageNetResNet((1, 1, 1, 1), True, num_classes=4),
    "vgg": VGG((1, 1, 1, 1, 1), num_classes=4),
    "mobilenet": MobileNetV2((((1, 8, 1, 1),), ((6, 16, 2, 2),)), num_classes=4),
    "mobilenet_half": MobileNetV2Half((((1, 8, 1, 1),), ((6, 16, 2, 2),)), num_classes=4),
    "shufflenet_v1": ShuffleNetV1(((48, 2), (96, 1)), num_classes=4),
    "shufflenet_v2": ShuffleNetV2(((16, 2), (32, 1)), num_classes=4),
    "convnet": ConvNet(((16, 16), (16, 16), (32, 16)), num_classes=4),
}
WITH_DROPOUT = ("mobilenet", "convnet")
Variables = dict[str, Any]


@functools.cache
def _shapes(model: Model, size: int) -> tuple[Outputs, Variables]:
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(
        lambda images: model.init_with_output(jax.random.key(0), images, train=True), images
    )


def _model(name: str) -> Model:
    return create_model(name, EXPECTED[name].classes)


@functools.cache
def _variables(model: Model) -> Variables:
    """Draws weights by fan-in, with which no activation dies out in evaluation mode."""
    random = np.random.default_rng(0)

    def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1] in ("mean", "bias"):
            return 0.1 * random.normal(size=leaf.shape)
        if path[-1] in ("var", "scale"):
            return random.uniform(0.8, 1.2, leaf.shape)
        return random.normal(scale=np.sqrt(2 / np.prod(leaf.shape[:-1])), size=leaf.shape)

    shapes = flax.traverse_util.flatten_dict(_shapes(model, 32)[1])
    drawn = {path: draw(path, leaf).astype(np.float32) for path, leaf in shapes.items()}
    return flax.traverse_util.unflatten_dict(drawn)


def _images(count: int = 4, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


@functools.cache
def _compiled_evaluation(model: Model):
    def evaluate(variables, images, factors):
        def feature_hook(layer, x):
            return factors[layer] * x

        return model.apply(variables, images, feature_hook=feature_hook, mutable=["batch_stats"])

    return distributed.jit(evaluate)


def _evaluate(model: Model, **factors: float) -> tuple[Outputs, Variables]:
    """Returns the outputs, with features multiplied by factors, and the new statistics."""
    factors = {layer: np.float32(factors.get(layer, 1)) for layer in _shapes(model, 32)[0].features}
    outputs, updates = _compiled_evaluation(model)(_variables(model), _images(), factors)
    return outputs, updates["batch_stats"]


@functools.cache
def _evaluation(model: Model) -> Outputs:
    return _evaluate(model)[0]


def _train(model: Model, variables: Variables, images: jax.Array, key: int = 2):
    return model.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(key)},
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_parameters_are_as_many_as_published(name: str):
    variables = _shapes(_model(name), 32)[1]
    assert count_parameters(variables) == EXPECTED[name].parameters


@pytest.mark.parametrize(
    ("name", "size"), [*((name, 32) for name in EXPECTED), *((name, 64) for name in DEFINITIONS)]
)
def test_outputs_have_the_published_shapes(name: str, size: int):
    expected = EXPECTED[name]
    outputs, variables = _shapes(_model(name), size)
    assert outputs.logits.shape == (2, expected.classes)
    assert outputs.embedding.shape == (2, variables["params"]["fc"]["kernel"].shape[0])
    assert outputs.class_weights.shape == (outputs.embedding.shape[1], expected.classes)
    pixels = expected.pixels
    if size == 64:
        pixels = expected.pixels_64 or tuple(2 * side for side in pixels)
    stages = {
        f"stage{i}": (2, side, side, channels)
        for i, (side, channels) in enumerate(zip(pixels, expected.channels, strict=True), start=1)
    }
    shapes = {layer: feature.shape for layer, feature in outputs.features.items()}
    stem, final = shapes.pop("stem"), shapes.pop("final")
    assert shapes == stages
    assert final[-1] == outputs.embedding.shape[1]
    assert stem[:3] == (2, size // expected.stem, size // expected.stem)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_models_have_float32_variables_embedding_and_logits(name: str):
    outputs, variables = _shapes(SMALL[name].clone(dtype=jnp.bfloat16), 32)
    assert {feature.dtype for feature in outputs.features.values()} == {jnp.dtype("bfloat16")}
    assert outputs.logits.dtype == outputs.embedding.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["wrn", "convnet"])
def test_bfloat16_logits_are_near_float32(name: str):
    model = SMALL[name]
    exact = _evaluation(model).logits
    near = distributed.jit(model.clone(dtype=jnp.bfloat16).apply)(_variables(model), _images())
    np.testing.assert_allclose(near.logits, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_is_deterministic_and_keeps_the_statistics(name: str):
    model = SMALL[name]
    outputs, statistics = _evaluate(model)
    assert np.isfinite(outputs.logits).all()
    jax.tree.map(np.testing.assert_array_equal, outputs, _evaluation(model))
    jax.tree.map(np.testing.assert_array_equal, statistics, _variables(model)["batch_stats"])


@pytest.mark.parametrize("name", SMALL)
def test_training_updates_every_running_statistic(name: str):
    model = SMALL[name]
    variables, images = _variables(model), _images()
    _, updates = jax.jit(functools.partial(_train, model))(variables, images)
    before = flax.traverse_util.flatten_dict(variables["batch_stats"])
    after = flax.traverse_util.flatten_dict(updates["batch_stats"])
    for path, value in after.items():
        assert not np.array_equal(before[path], value), path
        assert np.isfinite(value).all(), path
    if name in ("resnet", "imagenet_resnet"):  # a norm that directly follows the first convolution
        stride, padding = (2, 3) if name == "imagenet_resnet" else (1, 1)
        stem = jax.lax.conv_general_dilated(
            images,
            variables["params"]["conv1"]["kernel"],
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean, var = np.mean(stem, (0, 1, 2)), np.var(stem, (0, 1, 2), ddof=1)
        for leaf, batch_value in (("mean", mean), ("var", var)):
            path = ("bn1", leaf)
            expected = 0.9 * before[path] + 0.1 * batch_value
            np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_feature_hook_changes_the_following_layers_only(name: str):
    model = SMALL[name]
    plain = _evaluation(model)
    assert np.ptp(plain.logits, axis=0).max() > 1e-2
    for layer, feature in plain.features.items():
        changed, _ = _evaluate(model, **{layer: 0.0})
        np.testing.assert_array_equal(changed.features[layer], feature)
        assert np.abs(feature).max() > 0
        assert np.abs(changed.logits - plain.logits).max() > 1e-2, layer
        # After a feature map of zeros all images have the same logits.
        np.testing.assert_allclose(np.ptp(changed.logits, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_linear_in_the_embedding(name: str):
    model = SMALL[name]
    outputs = _evaluation(model)
    bias = _variables(model)["params"]["fc"]["bias"]
    expected = outputs.embedding @ outputs.class_weights + bias
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)


def test_vgg_equals_numpy():
    """The first two blocks in evaluation mode, written out."""
    model = SMALL["vgg"]
    features, images = _evaluation(model).features, _images()
    params, statistics = _variables(model)["params"], _variables(model)["batch_stats"]

    def layer(x: np.ndarray, block: int) -> np.ndarray:
        conv, norm = f"block{block}_0", f"block{block}_1"
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        y = np.tensordot(windows, params[conv]["kernel"], ((4, 5, 3), (0, 1, 2)))
        y = y + params[conv]["bias"] - statistics[norm]["mean"]
        y = y / np.sqrt(statistics[norm]["var"] + 1e-5) * params[norm]["scale"]
        return np.maximum(y + params[norm]["bias"], 0)

    first = layer(images, 0)
    np.testing.assert_allclose(features["stage1"], first, atol=1e-4)
    pooled = first.reshape(4, 16, 2, 16, 2, 64).max((2, 4))
    np.testing.assert_allclose(features["stage2"], layer(pooled, 1), atol=1e-4)


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle_interleaves_the_groups(groups: int):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5 * groups)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(5):
        for group in range(groups):
            expected[..., groups * i + group] = x[..., 5 * group + i]
    np.testing.assert_array_equal(channel_shuffle(x, groups), expected)


@pytest.mark.parametrize("use_scale", [True, False])
def test_batch_norm_in_training_normalises_by_the_batch(use_scale: bool):
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 5)).astype(np.float32)
    norm = BatchNorm(train=True, use_scale=use_scale)
    variables = norm.init(jax.random.key(0), x)
    assert set(variables["params"]) == ({"scale", "bias"} if use_scale else {"bias"})
    variables["params"]["bias"] = np.arange(5.0, dtype=np.float32)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + np.arange(5.0)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    statistics = updates["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_needs_a_key_in_training_only(name: str):
    model = SMALL[name]
    variables = _shapes(model, 32)[1]

    def apply(variables: Variables, train: bool) -> tuple[Outputs, Variables]:
        return model.apply(variables, _images(), train=train, mutable=["batch_stats"])

    jax.eval_shape(functools.partial(apply, train=False), variables)
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(apply, train=True), variables)


def test_mobilenet_dropout_keeps_the_mean_and_the_embedding():
    model, rate, copies = SMALL["mobilenet"], 0.2, 512
    variables = _variables(model)
    images = np.repeat(_images(1, 4), copies, 0)
    train = jax.jit(functools.partial(_train, model))
    outputs, _ = train(variables, images, 2)
    embedding = outputs.embedding[0]
    np.testing.assert_allclose(outputs.embedding, embedding[None].repeat(copies, 0), atol=1e-6)
    # The variance of sum_d keep_d / (1 - rate) * embedding_d * weight_d, keep_d Bernoulli.
    parts = embedding[:, None] * outputs.class_weights
    std = np.sqrt(rate / (1 - rate) * np.square(parts).sum(0))
    error = outputs.logits.mean(0) - parts.sum(0) - variables["params"]["fc"]["bias"]
    assert (np.abs(error) < 4 * std / np.sqrt(copies)).all()
    np.testing.assert_allclose(outputs.logits.std(0), std, rtol=0.2)
    assert len(np.unique(outputs.logits[:, 0])) > copies // 2  # every example has its own mask
    other, _ = train(variables, images, 3)
    assert not np.array_equal(outputs.logits, other.logits)


def test_convnet_drops_half_of_the_entries_after_each_pooling():
    """With kernels of 0 and biases of 1 a stage's output is 1, so that the next input is a mask."""
    model, width = SMALL["convnet"], 16
    variables = jax.tree.map(np.zeros_like, _variables(model))
    for name, layer in variables["params"].items():
        if name.startswith("bn"):
            layer["bias"] = np.ones_like(layer["bias"])
    for name in ("conv2_0", "conv3_0"):
        variables["params"][name]["kernel"][1, 1, :, :width] = np.eye(width)

    @jax.jit
    def inputs_of_stages(key: jax.Array) -> list[jax.Array]:
        _, state = model.apply(
            variables,
            jnp.ones((4, 32, 32, 3)),
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name in ("conv2_0", "conv3_0"),
            rngs={"dropout": key},
        )
        outputs = state["intermediates"]
        return [outputs[name]["__call__"][0] for name in ("conv2_0", "conv3_0")]

    for inputs in inputs_of_stages(jax.random.key(0)):
        mask = np.asarray(inputs)[..., :width]
        assert set(np.unique(mask)) == {0.0, 2.0}  # what is kept is divided by a half
        np.testing.assert_allclose(mask.mean(), 1.0, atol=0.1)
        assert not np.array_equal(mask[0], mask[1])


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_does_not_depend_on_the_number_of_devices(name: str):
    model, images = SMALL[name], _images(size=12)
    variables = _variables(model)

    def step(images: jax.Array) -> tuple[jax.Array, Variables]:
        sharded = model.clone(axis_name=distributed.BATCH_AXIS)
        outputs, updates = _train(sharded, variables, images)
        return distributed.all_gather(outputs.logits), updates

    mesh = distributed.make_mesh(jax.devices()[:2])
    two = distributed.shard_step(step, mesh, batch_argument=0)(images)
    outputs, updates = jax.jit(functools.partial(_train, model))(variables, images)
    one = outputs.logits, updates
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)


def _torch_state_dict(variables: Mapping[tuple[str, ...], np.ndarray]) -> dict[str, np.ndarray]:
    """Returns variables by path in PyTorch's names and layouts."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    layouts = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    return {
        ".".join(
            [*(re.sub(r"_(?=\d)", ".", module) for module in modules), names.get(leaf, leaf)]
        ): array.transpose(layouts[array.ndim])
        for (_, *modules, leaf), array in variables.items()
    }


@pytest.mark.parametrize(
    ("name", "classifier", "keys"),
    [
        ("vgg8", "classifier", ("block0.0.weight", "block0.0.bias", "block4.1.weight")),
        ("vgg16", "classifier", ("block2.6.weight", "block4.7.bias", "block1.3.bias")),
        (
            "mobilenet_v2",
            "classifier.1",
            (
                "features1.0.0.weight",
                "features1.1.conv.0.0.weight",
                "features1.1.conv.1.weight",
                "features1.2.conv.1.1.bias",
                "features2.0.conv.3.weight",
                "features2.9.conv.2.weight",
                "features3.4.1.bias",
            ),
        ),
        (
            "mobilenet_v2_half",
            "classifier.0",
            ("conv1.0.weight", "blocks.0.0.conv.0.weight", "blocks.4.2.conv.7.bias"),
        ),
        ("shufflenet_v1", "linear", ("conv1.weight", "layer1.0.conv3.weight", "layer3.3.bn3.bias")),
        ("shufflenet_v2", "linear", ("conv1.weight", "layer1.0.conv5.weight", "layer2.7.bn3.bias")),
    ],
)
def test_import_torch_state_dict_inverts_the_names_and_layouts_of_pytorch(
    name: str, classifier: str, keys: tuple[str, ...]
):
    rng = np.random.default_rng(0)
    shapes = flax.traverse_util.flatten_dict(_shapes(_model(name), 32)[1])
    variables = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}
    state_dict = {
        re.sub("^fc", classifier, key): array for key, array in _torch_state_dict(variables).items()
    }
    assert set(keys) <= state_dict.keys()
    imported = flax.traverse_util.flatten_dict(import_torch_state_dict(name, state_dict))
    assert imported.keys() == variables.keys()
    for path, array in imported.items():
        np.testing.assert_array_equal(array, variables[path])


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("WRN-16-2", "wrn_16_2"),
        ("wrn16_2", "wrn_16_2"),
        ("ResNet-20", "resnet20"),
        ("VGG-8", "vgg8"),
        ("ResNet-8x4", "resnet8x4"),
        ("CIFAR-ResNet50", "cifar_resnet50"),
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV2-half", "mobilenet_v2_half"),
        ("ShuffleNetV1", "shufflenet_v1"),
    ],
)
def test_create_model_ignores_case_and_separators(name: str, same: str):
    assert create_model(name, 10) == create_model(same, 10)
    assert canonical_model_name(name) == canonical_model_name(same) == same


def test_create_model_builds_wide_resnets_of_any_depth():
    assert create_model("wrn_22_4", 10) == WideResNet(22, 4, num_classes=10)


@pytest.mark.parametrize("name", EXPECTED)
def test_create_model_passes_classes_dtype_and_axis(name: str):
    model = create_model(name, 7, jnp.bfloat16, "batch")
    assert (model.num_classes, model.dtype, model.axis_name) == (7, jnp.bfloat16, "batch")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "unknown network 'resnet21'; did you mean resnet"),
        ("wrn_17_1", "depth of 6n"),
        ("transformer", "known: "),
    ],
)
def test_create_model_rejects_unknown_names(name: str, message: str):
    assert canonical_model_name(name) == name
    with pytest.raises(UserError, match=message):
        create_model(name, 10)


def test_init_variables_are_float32_of_the_shapes_of_the_model():
    model = SMALL["wrn"]
    variables = init_variables(model, jax.random.key(0), (32, 32, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    check_variable_shapes(flat, variable_shapes(model), "the variables")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2)}, "x.npz: 'b' is missing"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, r"x.npz: 'b' has the shape \(3,\), expected \(1,\)"),
        ({"a": np.zeros(2), "b": np.zeros(1), "c": 0}, "x.npz: unexpected 'c'$"),
        (
            {name: np.zeros(2 if name == "a" else 1) for name in "fedcba"},
            "x.npz: unexpected 'c', 'd', 'e' and 1 more",
        ),
    ],
)
def test_check_variable_shapes_names_the_array(arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(UserError, match=message):
        check_variable_shapes(arrays, {"a": np.zeros(2), "b": np.zeros(1)}, "x.npz")
