import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from amdjax.analysis import grad_cam, to_unit, upsample
from amdjax.analysis.gradcam import overlay
from amdjax.errors import UserError
from amdjax.losses import cross_entropy
from amdjax.models import create_model, import_torch_state_dict, init_variables
from tests.reference_values import load, nhwc, prefixed

CLASSES = np.asarray([3, 0, 7, 3])


@pytest.fixture(scope="module")
def wrn():
    arrays = load("model_wrn_16_1")
    variables = import_torch_state_dict("wrn_16_1", prefixed(arrays, "param"))
    return create_model("wrn_16_1", 10), variables, nhwc(arrays["image"])


def _cam(weights: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """Returns Grad-CAM by its definition, from weights [B,C]."""
    feature = np.asarray(feature, np.float64)
    return np.maximum(np.einsum("bc,bhwc->bhw", np.asarray(weights, np.float64), feature), 0)


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_grad_cam_weights_equal_finite_differences(wrn, layer):
    model, variables, images = wrn
    image, label = images[:1], CLASSES[0]
    feature = model.apply(variables, image).features[layer]
    _, height, width, channels = feature.shape

    @jax.jit
    def logits(eps):
        """Returns the label's logit with channel c of the c-th copy of the image moved by eps."""
        moved = eps * jnp.eye(channels)[:, None, None]
        copies = jnp.repeat(image, channels, axis=0)
        outputs = model.apply(
            variables, copies, feature_hook=lambda name, x: x + moved if name == layer else x
        )
        return outputs.logits[:, label]

    # The network is piecewise linear: a step wide enough for float32, so that few units switch.
    eps = 2e-3
    difference = np.asarray(logits(eps), np.float64) - np.asarray(logits(-eps), np.float64)
    weights = difference / (2 * eps) / (height * width)
    expected = _cam(weights[None], feature)
    cam = grad_cam(model, variables, image, CLASSES[:1], layer)
    assert cam.shape == (1, height, width)
    assert expected.max() > 0
    assert np.linalg.norm(cam - expected) < 0.02 * np.linalg.norm(expected)


def test_grad_cam_of_the_last_stage_has_a_closed_form(wrn):
    model, variables, images = wrn
    feature = np.asarray(model.apply(variables, images).features["stage3"], np.float64)
    norm, running = variables["params"]["bn1"], variables["batch_stats"]["bn1"]
    slope = norm["scale"] / np.sqrt(running["var"] + 1e-5)
    active = (feature - running["mean"]) * slope + norm["bias"] > 0
    kernel = np.asarray(variables["params"]["fc"]["kernel"], np.float64)[:, CLASSES].T
    positions = feature.shape[1] * feature.shape[2]
    weights = kernel * slope * active.mean((1, 2)) / positions
    cam = grad_cam(model, variables, images, CLASSES, "stage3")
    assert cam.dtype == jnp.float32
    expected = _cam(weights, feature)
    np.testing.assert_allclose(cam, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_grad_cam_treats_samples_independently(wrn):
    model, variables, images = wrn
    cams = grad_cam(model, variables, images, CLASSES, "stage2")
    order = np.asarray([2, 0, 3, 1])
    permuted = grad_cam(model, variables, images[order], CLASSES[order], "stage2")
    np.testing.assert_allclose(permuted, cams[order], atol=1e-5 * cams.max())
    alone = grad_cam(model, variables, images[1:2], CLASSES[1:2], "stage2")
    np.testing.assert_allclose(alone, cams[1:2], atol=1e-5 * cams.max())


def test_grad_cam_under_jit_and_in_bfloat16(wrn):
    model, variables, images = wrn
    cams = grad_cam(model, variables, images, CLASSES, "stage3")
    jitted = jax.jit(grad_cam, static_argnames=("model", "layer"))
    np.testing.assert_allclose(
        jitted(model, variables, images, CLASSES, layer="stage3"), cams, atol=1e-5 * cams.max()
    )
    narrow = create_model("wrn_16_1", 10, dtype=jnp.bfloat16)
    rounded = grad_cam(narrow, variables, images, CLASSES, "stage3")
    assert rounded.dtype == jnp.float32
    assert np.linalg.norm(rounded - cams) < 0.1 * np.linalg.norm(cams)


def test_grad_cam_follows_the_predict_function(wrn):
    model, variables, images = wrn
    cams = grad_cam(model, variables, images, CLASSES, "stage3")

    def doubled(outputs):
        return outputs.replace(logits=2.0 * outputs.logits)

    twice = grad_cam(model, variables, images, CLASSES, "stage3", predict=doubled)
    np.testing.assert_allclose(twice, 2.0 * cams, rtol=1e-5)
    none = grad_cam(model, variables, images, np.full(4, 10), "stage3")
    np.testing.assert_array_equal(none, 0.0)


def test_grad_cam_of_a_rule_that_reads_the_feature_has_a_closed_form(wrn):
    """As of SimKD, whose prediction reads a feature and not the logits."""
    model, variables, images = wrn
    feature = model.apply(variables, images).features["stage3"]
    kernel = np.random.default_rng(0).normal(size=[feature.shape[-1], 10])

    def rule(outputs):
        return outputs.replace(logits=outputs.features["stage3"].mean((1, 2)) @ kernel)

    cam = grad_cam(model, variables, images, CLASSES, "stage3", predict=rule)
    expected = _cam(kernel[:, CLASSES].T / (feature.shape[1] * feature.shape[2]), feature)
    assert expected.max() > 0
    np.testing.assert_allclose(cam, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_grad_cam_rejects_bad_input(wrn):
    model, variables, images = wrn
    with pytest.raises(UserError, match="unknown layer 'stage4'; did you mean stage"):
        grad_cam(model, variables, images, CLASSES, "stage4")
    with pytest.raises(UserError, match=r"expected classes \[4\].*got \[3\]"):
        grad_cam(model, variables, images, CLASSES[:3], "stage3")


def test_to_unit_scales_each_map():
    cams = np.stack([np.asarray([[1.0, 2.0], [3.0, 5.0]]), np.full((2, 2), 7.0), np.zeros((2, 2))])
    expected = [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(to_unit(cams), expected, rtol=1e-6)


def test_upsample_is_bilinear():
    cams = np.asarray([[[0.0, 4.0]], [[2.0, 2.0]]])
    expected = [[[0, 1, 3, 4]] * 2, [[2, 2, 2, 2]] * 2]
    np.testing.assert_allclose(upsample(cams, (2, 4)), expected, rtol=1e-6)


def test_overlay_covers_images_by_their_heat():
    images = np.random.default_rng(0).random((2, 4, 4, 3))
    np.testing.assert_array_equal(overlay(images, np.zeros((2, 4, 4))), images)
    heat = np.stack([np.zeros((4, 4)), np.full((4, 4), 0.5)])
    color = np.asarray(mpl.colormaps["inferno"](0.5)[:3])
    expected = [images[0], images[1] + 0.75 * 0.5 * (color - images[1])]
    np.testing.assert_allclose(overlay(images, heat), expected, rtol=1e-6)


def _scenes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws images with a digit in one quarter and pixel-permuted digits in the others.

    Returns:
      (images [N,16,16,3], labels [N], bool [N,16,16] that is True on the digit's strokes).
    """
    digits = load_digits()
    count = len(digits.target)
    rng = np.random.default_rng(seed)
    tiles = digits.images[rng.integers(count, size=(count, 4))].reshape(count, 4, 64)
    tiles = rng.permuted(tiles, axis=-1).reshape(count, 4, 8, 8)
    strokes = np.zeros(tiles.shape, bool)
    quarter = np.arange(count), rng.integers(4, size=count)
    tiles[quarter], strokes[quarter] = digits.images, digits.images > 8

    def assemble(tiles):
        return tiles.reshape(count, 2, 2, 8, 8).swapaxes(2, 3).reshape(count, 16, 16)

    images = assemble(tiles).astype(np.float32)
    images = (images - images.mean()) / images.std()
    return np.repeat(images[..., None], 3, axis=-1), digits.target, assemble(strokes)


def _trained(model, variables, images, labels, steps):
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, opt_state, images, labels):
        def loss(params):
            outputs, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(outputs.logits, labels).mean(), updates

        gradient, updates = jax.grad(loss, has_aux=True)(variables["params"])
        change, opt_state = optimizer.update(gradient, opt_state)
        return {"params": optax.apply_updates(variables["params"], change), **updates}, opt_state

    opt_state = optimizer.init(variables["params"])
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.choice(len(labels), 64, replace=False)
        variables, opt_state = step(variables, opt_state, images[rows], labels[rows])
        jax.block_until_ready(variables)
    return variables


@pytest.mark.slow
def test_grad_cam_of_a_trained_network_lies_on_the_strokes():
    images, labels, strokes = _scenes(seed=0)
    train, test = slice(1437), slice(1437, None)
    model = create_model("wrn_10_1", 10)
    drawn = init_variables(model, jax.random.key(0), (16, 16, 3))
    trained = _trained(model, drawn, images[train], labels[train], steps=250)
    logits = model.apply(trained, images[test]).logits
    assert np.mean(np.argmax(logits, -1) == labels[test]) > 0.85

    def fraction_on_strokes(cams):
        cams = np.asarray(to_unit(upsample(cams, (16, 16))))
        on_strokes = (cams * strokes[test]).sum((1, 2))
        return np.mean(on_strokes / np.maximum(cams.sum((1, 2)), 1e-6))

    cams = grad_cam(model, trained, images[test], labels[test], "stage2")
    activation = model.apply(drawn, images[test]).features["stage2"].mean(-1)
    of_trained, of_random = fraction_on_strokes(cams), fraction_on_strokes(activation)
    assert of_trained > 1.5 * of_random
    assert of_trained > 1.5 * strokes[test].mean()
