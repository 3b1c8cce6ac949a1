"""The families beside the residual ones: VGG, MobileNetV2, ShuffleNetV2 and the AMC networks."""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from amdjax import distributed
from amdjax.models import create_model, import_torch_state_dict, mobilenet
from amdjax.models.layers import BatchNorm
from amdjax.models.shufflenet import channel_shuffle

# By hand, C classes:
# - vgg: each 3x3 convolution from i to o channels 9io + o, its norm 2o; 513C.
#   vgg8: 9 (3*64 + 64*128 + 128*256 + 256*512 + 512*512) + 3 (64 + 128 + 256 + 512 + 512) + 513C;
#   vgg13 adds 9w^2 + 3w for the width w of every block, vgg16 the same again for the last three.
# - mobilenet_v2: stem 27*8 + 16; a block from i to o channels with h = ti hidden ones: (ih + 2h if
#   t > 1) + 9h + 2h + ho + 2o, the 17 blocks together 479,704; last 160*640 + 1,280; 641C.
# - shufflenet_v2: stem 3*24 + 48; a stage's first unit from i to 2m channels (9i + 2i + im + 2m)
#   + (im + 2m + 9m + 2m + mm + 2m), each other one 2mm + 15m: 7,398 + 3*7,598 = 30,192,
#   43,616 + 7*28,652 = 244,180, 167,968 + 3*111,128 = 501,352; last 464*1,024 + 2,048; 1,025C.
# - amc_net: 27*64 + 2*9*64^2 + 9*64*128 + 2*9*128^2 + 9*128*256 + 256*128 = 771,776 weights;
#   a bias of its norm for each channel, 3*64 + 3*128 + 256 + 128 = 960; 129C.
# - conv13: 27*128 + 2*9*128^2 + 9*128*256 + 2*9*256^2 + 9*256*512 + 512*256 + 256*128 = 3,116,416;
#   3*128 + 3*256 + 512 + 256 + 128 = 2,048; 129C.
PARAMETERS = {
    "vgg8": (10, 3_918_858),
    "vgg13": (10, 9_416_010),
    "vgg16": (10, 14_728_266),
    "mobilenet_v2": (10, 590_026),
    "shufflenet_v2": (100, 1_355_528),  # what RepDistiller's definition has
    "amc_net": (10, 774_026),
    "conv13": (10, 3_119_754),
}
# Pixels of the places at an input of 32 and at one of 64.
PIXELS = {
    "vgg8": ((32, 16, 8, 4, 4), (64, 32, 16, 8, 4)),
    "vgg13": ((32, 16, 8, 4, 4), (64, 32, 16, 8, 4)),
    "vgg16": ((32, 16, 8, 4, 4), (64, 32, 16, 8, 4)),
    "mobilenet_v2": ((32, 16, 8), (64, 32, 16)),
    "shufflenet_v2": ((32, 16, 8, 4), (64, 32, 16, 8)),
    "amc_net": ((32, 16, 6), (64, 32, 14)),
    "conv13": ((32, 16, 6), (64, 32, 14)),
}
CHANNELS = {
    "vgg8": (64, 128, 256, 512, 512),
    "mobilenet_v2": (16, 48, 640),
    "shufflenet_v2": (24, 116, 232, 464),
    "amc_net": (64, 128, 128),
    "conv13": (128, 256, 128),
}
ONE_OF_EACH = ("vgg8", "mobilenet_v2", "shufflenet_v2", "amc_net")
WITH_DROPOUT = ("mobilenet_v2", "amc_net")
SIZE = 16  # of the images in the tests that compute


def _shapes(name, size=32, classes=10, dtype=jnp.float32):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    model = create_model(name, classes, dtype)
    return jax.eval_shape(
        lambda images: model.init_with_output(jax.random.key(0), images, train=True), images
    )


def _variables(name):
    """Draws weights by fan-in, with which no activation dies out in evaluation mode."""
    random = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1] in ("mean", "bias"):
            return 0.1 * random.normal(size=leaf.shape)
        if path[-1] in ("var", "scale"):
            return random.uniform(0.8, 1.2, leaf.shape)
        return random.normal(scale=np.sqrt(2 / np.prod(leaf.shape[:-1])), size=leaf.shape)

    shapes = flax.traverse_util.flatten_dict(_shapes(name, classes=4)[1])
    drawn = {path: draw(path, leaf).astype(np.float32) for path, leaf in shapes.items()}
    return flax.traverse_util.unflatten_dict(drawn)


def _images(count=4, size=SIZE):
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


@functools.cache
def _evaluation(name):
    """Returns (variables, images, factor of each feature) -> outputs, updates; compiled once."""
    model = create_model(name, 4)

    def evaluate(variables, images, factors):
        def feature_hook(place, x):
            return factors[place] * x

        return model.apply(variables, images, feature_hook=feature_hook, mutable=["batch_stats"])

    return jax.jit(evaluate)


def _evaluate(name, variables, images, **factors):
    factors = {place: factors.get(place, 1.0) for place in _shapes(name)[0].features}
    return _evaluation(name)(variables, images, factors)


def _train(name, variables, images, key=2, axis_name=None):
    return create_model(name, 4, axis_name=axis_name).apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(key)},
    )


@pytest.fixture
def small_mobilenet(monkeypatch):
    """MobileNetV2 of two blocks, which is compiled in less time and drops out as the whole."""
    stages = (((1, 8, 1, 1),), ((6, 16, 1, 2),))
    monkeypatch.setattr(mobilenet, "_STAGES", stages)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    classes, count = PARAMETERS[name]
    _, variables = _shapes(name, classes=classes)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes(name, size):
    outputs, variables = _shapes(name, size, classes=7)
    assert outputs.logits.shape == (2, 7)
    assert outputs.embedding.shape == (2, variables["params"]["fc"]["kernel"].shape[0])
    assert outputs.class_weights.shape == (outputs.embedding.shape[1], 7)
    pixels = PIXELS[name][size // 64]
    assert outputs.features.keys() == {"stem", *(f"stage{i + 1}" for i in range(len(pixels)))}
    assert outputs.features["stem"].shape[:3] == (2, size, size)
    for i, side in enumerate(pixels):
        shape = outputs.features[f"stage{i + 1}"].shape
        assert shape[:3] == (2, side, side)
        if name in CHANNELS:
            assert shape[3] == CHANNELS[name][i]


# Keys of the PyTorch state dicts, which `import_torch_state_dict` makes from the paths.
@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("vgg8", ("block0.0.weight", "block0.0.bias", "block4.1.weight")),
        ("vgg16", ("block2.6.weight", "block4.7.bias", "block1.3.bias")),
        (
            "mobilenet_v2",
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
        ("shufflenet_v2", ("conv1.weight", "layer1.0.conv5.weight", "layer2.7.bn3.bias")),
    ],
)
def test_names_are_those_of_pytorch(name, keys):
    paths = flax.traverse_util.flatten_dict(_shapes(name)[1]["params"])
    torch_keys = {
        ".".join(re.sub(r"_(\d+)$", r".\1", part) for part in path[:-1])
        + (".bias" if path[-1] == "bias" else ".weight")
        for path in paths
    }
    assert len(torch_keys) == len(paths)
    assert set(keys) <= torch_keys


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("vgg8", "classifier"), ("mobilenet_v2", "classifier.1"), ("shufflenet_v2", "linear")],
)
def test_import_from_pytorch(name, classifier):
    """A state dict in PyTorch's names and layout comes back as the variables it was made of."""
    rng = np.random.default_rng(0)
    leaf = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    variables, state_dict = {}, {}
    for path, shape in flax.traverse_util.flatten_dict(_shapes(name)[1]).items():
        array = variables[path] = rng.normal(size=shape.shape).astype(np.float32)
        parts = [re.sub(r"_(\d+)$", r".\1", part) for part in path[1:-1]]
        key = ".".join([*parts, leaf.get(path[-1], path[-1])])
        layout = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
        state_dict[re.sub("^fc", classifier, key)] = array.transpose(layout)
    imported = import_torch_state_dict(name, state_dict)
    assert flax.traverse_util.flatten_dict(imported).keys() == variables.keys()
    for path, array in flax.traverse_util.flatten_dict(imported).items():
        np.testing.assert_array_equal(array, variables[path])


@pytest.mark.parametrize(("name", "same"), [("VGG-8", "vgg8"), ("MobileNetV2", "mobilenet_v2")])
def test_spelling_of_names(name, same):
    assert create_model(name, 10) == create_model(same, 10)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_statistics_move_in_training_alone(name):
    variables, images = _variables(name), _images()
    first, updates = _evaluate(name, variables, images)
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])
    again, _ = _evaluate(name, variables, images)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.isfinite(first.logits).all()
    _, updates = jax.jit(functools.partial(_train, name))(variables, images)
    before = flax.traverse_util.flatten_dict(variables["batch_stats"])
    for path, after in flax.traverse_util.flatten_dict(updates["batch_stats"]).items():
        assert not np.array_equal(before[path], after), path
        assert np.isfinite(after).all(), path


@pytest.mark.parametrize("name", PARAMETERS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(name):
    outputs, variables = _shapes(name, dtype=jnp.bfloat16)
    assert {feature.dtype for feature in outputs.features.values()} == {jnp.dtype("bfloat16")}
    assert outputs.logits.dtype == outputs.embedding.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_is_near_float32():
    variables, images = _variables("amc_net"), _images()
    exact = _evaluate("amc_net", variables, images)[0].logits
    near = jax.jit(create_model("amc_net", 4, jnp.bfloat16).apply)(variables, images).logits
    np.testing.assert_allclose(near, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("place", ["stem", "stage1", "stage2", "stage3"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_edit_changes_what_follows_it(name, place):
    variables, images = _variables(name), _images()
    plain, _ = _evaluate(name, variables, images)
    edited, _ = _evaluate(name, variables, images, **{place: 0.0})
    np.testing.assert_array_equal(edited.features[place], plain.features[place])
    assert np.abs(plain.features[place]).max() > 0
    assert np.abs(edited.logits - plain.logits).max() > 1e-2
    # A dead map says the same of every image.
    assert np.ptp(plain.logits, axis=0).max() > 1e-2
    np.testing.assert_allclose(np.ptp(edited.logits, axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_logits_come_from_the_embedding(name):
    variables = _variables(name)
    outputs, _ = _evaluate(name, variables, _images())
    expected = outputs.embedding @ outputs.class_weights + variables["params"]["fc"]["bias"]
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)


def test_channel_shuffle():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 10)).astype(np.float32)
    expected = np.empty_like(x)
    for i in range(5):
        expected[..., 2 * i] = x[..., i]
        expected[..., 2 * i + 1] = x[..., 5 + i]
    np.testing.assert_array_equal(channel_shuffle(x), expected)


def test_vgg_against_numpy():
    """The first two stages of vgg8 in evaluation mode, written out."""
    variables, images = _variables("vgg8"), _images()
    features = _evaluate("vgg8", variables, images)[0].features
    params, statistics = variables["params"], variables["batch_stats"]

    def layer(x, block):
        conv, norm = f"block{block}_0", f"block{block}_1"
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        y = np.tensordot(windows, params[conv]["kernel"], ((4, 5, 3), (0, 1, 2)))
        y = y + params[conv]["bias"] - statistics[norm]["mean"]
        y = y / np.sqrt(statistics[norm]["var"] + 1e-5) * params[norm]["scale"]
        return np.maximum(y + params[norm]["bias"], 0)

    first = layer(images, 0)
    np.testing.assert_allclose(features["stage1"], first, atol=1e-4)
    pooled = first.reshape(4, SIZE // 2, 2, SIZE // 2, 2, 64).max((2, 4))
    np.testing.assert_allclose(features["stage2"], layer(pooled, 1), atol=1e-4)


def test_norm_without_scale():
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 5)).astype(np.float32)
    norm = BatchNorm(train=True, use_scale=False)
    variables = norm.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"bias"}
    variables["params"]["bias"] = jnp.arange(5.0)
    y, _ = norm.apply(variables, x, mutable=["batch_stats"])
    expected = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + np.arange(5.0)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_needs_a_key_in_training_alone(name):
    variables, images = _shapes(name, SIZE)[1], _images()
    model = create_model(name, 10)

    def apply(variables, train):
        return model.apply(variables, images, train=train, mutable=["batch_stats"])

    jax.eval_shape(functools.partial(apply, train=False), variables)
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(functools.partial(apply, train=True), variables)


def test_dropout_of_mobilenet_keeps_the_mean_and_the_embedding(small_mobilenet):
    rate, copies = 0.2, 512
    variables = _variables("mobilenet_v2")
    images = np.repeat(_images(1, 4), copies, 0)
    train = jax.jit(functools.partial(_train, "mobilenet_v2"))
    outputs, _ = train(variables, images)
    embedding = outputs.embedding[0]
    np.testing.assert_allclose(outputs.embedding, embedding[None].repeat(copies, 0), atol=1e-6)
    # The variance of sum_d keep_d / (1 - rate) * embedding_d * weight_d, keep_d Bernoulli.
    parts = embedding[:, None] * outputs.class_weights
    std = np.sqrt(rate / (1 - rate) * np.square(parts).sum(0))
    error = outputs.logits.mean(0) - parts.sum(0) - variables["params"]["fc"]["bias"]
    assert (np.abs(error) < 4 * std / np.sqrt(copies)).all()
    np.testing.assert_allclose(outputs.logits.std(0), std, rtol=0.2)
    assert len(np.unique(outputs.logits[:, 0])) > copies // 2  # every example has its own mask
    other, _ = train(variables, images, jnp.int32(3))
    assert not np.array_equal(outputs.logits, other.logits)


def test_dropout_of_the_amc_net_drops_half_behind_each_pool():
    """With kernels of 0 and biases of 1 a stage says 1, and what enters the next shows the mask."""
    variables = _variables("amc_net")
    variables["params"] = {
        name: {"bias": np.ones_like(layer["bias"])} if name.startswith("bn") else layer
        for name, layer in jax.tree.map(np.zeros_like, variables["params"]).items()
    }
    first, second = variables["params"]["conv2_0"], variables["params"]["conv3_0"]
    first["kernel"][1, 1, :, :64] = np.eye(64)
    second["kernel"][1, 1, :, :128] = np.eye(128)
    model = create_model("amc_net", 4)

    @jax.jit
    def inputs_of_stages(key):
        _, state = model.apply(
            variables,
            jnp.ones((4, SIZE, SIZE, 3)),
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: module.name in ("conv2_0", "conv3_0"),
            rngs={"dropout": key},
        )
        outputs = state["intermediates"]
        return outputs["conv2_0"]["__call__"][0], outputs["conv3_0"]["__call__"][0]

    for entered, channels in zip(inputs_of_stages(jax.random.key(0)), (64, 128), strict=True):
        entered = np.asarray(entered)[..., :channels]
        assert set(np.unique(entered)) == {0.0, 2.0}  # what is kept is divided by a half
        np.testing.assert_allclose(entered.mean(), 1.0, atol=0.1)
        assert not np.array_equal(entered[0], entered[1])


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_does_not_depend_on_the_number_of_devices(name, small_mobilenet):
    variables, images = _variables(name), _images(size=12)

    def step(images):
        outputs, updates = _train(name, variables, images, axis_name=distributed.BATCH_AXIS)
        return distributed.gather(outputs.logits), updates

    one, two = (
        distributed.shard_step(
            step, distributed.make_mesh(jax.devices()[:count]), batch_argument=0
        )(images)
        for count in (1, 2)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)
    alone, _ = jax.jit(functools.partial(_train, name))(variables, images)
    np.testing.assert_allclose(one[0], alone.logits, atol=1e-4)
