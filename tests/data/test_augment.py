import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from amdjax.configs import default
from amdjax.data import augment
from amdjax.data.augment import (
    Augment,
    color_jitter,
    create_augment,
    draw_flips,
    normalize,
    random_crop,
    random_erasing,
    random_flip,
)
from amdjax.data.policies import register_augmentation
from amdjax.errors import UserError
from tests.make_data import random_images

IMAGES = np.maximum(random_images(64, 8, 8, 3), 1)  # above 0, to tell them from the padding


def keys(seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), len(IMAGES))


def settings(**changes) -> ml_collections.ConfigDict:
    augment = default.get_config().augment
    augment.update(changes)
    return augment


def compiled(**changes) -> Augment:
    return jax.jit(create_augment(settings(**changes)))


@jax.jit
def normal(images) -> jax.Array:
    augment = settings()
    return normalize(images, augment.mean, augment.std)


def test_normalize_subtracts_the_mean_and_divides_by_the_std():
    images = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)
    normal = normalize(images, (0.0, 0.2, 0.5), (1.0, 0.1, 0.25))
    np.testing.assert_allclose(normal, [[[[0.0, 0.0, 2.0]]]], atol=1e-6)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_random_crop_returns_every_window_of_the_padded_image(mode, numpy_mode):
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=numpy_mode)
    cropped = random_crop(keys(), IMAGES, 1, mode)
    assert cropped.dtype == jnp.uint8
    found = set()
    for image, padded_image in zip(np.asarray(cropped), padded, strict=True):
        corners = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if np.array_equal(image, padded_image[top : top + 8, left : left + 8])
        ]
        assert len(corners) == 1
        found.add(corners[0])
    assert len(found) == 9


def test_random_flip_flips_about_half_of_the_images():
    flipped = np.asarray(random_flip(keys(), IMAGES))
    is_flipped = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    is_same = (flipped == IMAGES).all((1, 2, 3))
    assert (is_flipped != is_same).all()
    assert 20 <= is_flipped.sum() <= 44


def test_draw_flips_returns_the_flips_of_the_training_transform():
    augment = compiled(flip=True)
    is_flipped = np.asarray(draw_flips(keys()))[:, None, None, None]
    images = np.where(is_flipped, IMAGES[:, :, ::-1], IMAGES)
    np.testing.assert_array_equal(augment(keys(), IMAGES), normal(images))


def test_train_augments_each_image_by_its_key_alone():
    augment = compiled(padding=2, flip=True)
    batch = augment(keys(), IMAGES)
    other_keys = jnp.concatenate([keys(seed=1)[:32], keys()[32:]])
    other = augment(other_keys, np.concatenate([IMAGES[32:], IMAGES[32:]]))
    np.testing.assert_array_equal(other[32:], batch[32:])
    assert np.abs(augment(keys(seed=1), IMAGES) - batch).max() > 0


def test_train_without_augmentation_normalizes():
    augment = compiled(padding=0, flip=False)
    np.testing.assert_array_equal(augment(keys(), IMAGES), normal(IMAGES))


def test_train_adds_gaussian_noise_of_each_example():
    augment = compiled(noise=0.15)
    noise = np.asarray(augment(keys(), IMAGES) - normal(IMAGES))
    np.testing.assert_allclose(noise.std(), 0.15, rtol=0.03)
    np.testing.assert_allclose(noise.mean(), 0.0, atol=0.01)
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    only_first = augment(jnp.concatenate([keys()[:1], keys(seed=1)[1:]]), IMAGES)
    np.testing.assert_allclose(only_first[0] - normal(IMAGES)[0], noise[0], atol=1e-6)


def jittered(images, **strengths):
    compiled = jax.jit(lambda keys, images: color_jitter(keys, images, **strengths))
    return np.asarray(compiled(keys(), images)).astype(int)


def luma(images):
    return images @ [0.299, 0.587, 0.114]


def test_color_jitter_of_brightness_scales_each_image():
    images = IMAGES // 2
    ratios = jittered(images, brightness=0.4).sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert 0.58 <= ratios.min() < 0.7
    assert 1.3 < ratios.max() <= 1.4
    scaled = images * ratios[:, None, None, None]
    assert np.abs(jittered(images, brightness=0.4) - scaled).max() < 2


def test_color_jitter_of_contrast_keeps_the_mean_luma():
    images = IMAGES // 2 + 64
    changed = jittered(images, contrast=0.4)
    np.testing.assert_allclose(luma(changed).mean((1, 2)), luma(images).mean((1, 2)), atol=2)
    ratios = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.58 <= ratios.min() < 0.7
    assert 1.3 < ratios.max() <= 1.42


def test_color_jitter_of_contrast_above_one_never_makes_a_negative():
    images = np.full((64, 1, 2, 3), 100, np.uint8)
    images[:, :, 1] = 150
    difference = np.diff(jittered(images, contrast=1.8)[:, 0, :, 0])
    assert 0 <= difference.min() < 10
    assert 120 < difference.max() <= 140


def test_color_jitter_of_saturation_keeps_the_luma():
    images = IMAGES // 4 + 96
    changed = jittered(images, saturation=0.9)
    np.testing.assert_allclose(luma(changed), luma(images), atol=2)
    assert np.abs(changed - images).max() > 10


def test_color_jitter_of_hue_keeps_value_and_saturation():
    images = IMAGES // 2 + 64
    changed = jittered(images, hue=0.5)
    np.testing.assert_allclose(changed.max(-1), images.max(-1), atol=1)
    np.testing.assert_allclose(changed.min(-1), images.min(-1), atol=2)
    assert np.abs(changed - images).max((1, 2, 3)).min() > 0


def test_color_jitter_changes_the_order_of_its_changes():
    # Contrast keeps the mean luma, which brightness has changed before or changes after.
    images = np.broadcast_to(np.asarray([0, 100], np.uint8)[:, None], (64, 2, 2)).repeat(3)
    images = images.reshape(64, 2, 2, 3)
    changed = jittered(images, brightness=0.9, contrast=0.9)
    assert len({tuple(image.ravel()) for image in changed}) > 40
    np.testing.assert_array_equal(color_jitter(keys(), images), images)


@pytest.mark.parametrize("shape", [(16, 16), (5, 40)])
def test_random_erasing_sets_one_rectangle_to_zero(shape):
    images = np.ones((64, *shape, 3), np.float32)
    erased = np.asarray(jax.jit(random_erasing, static_argnums=2)(keys(), images, 1.0)) == 0
    assert (erased.all(-1) == erased.any(-1)).all()
    heights, widths = (erased.any(axis).any(-1).sum(-1) for axis in (2, 1))
    np.testing.assert_array_equal(erased[..., 0].sum((1, 2)), heights * widths)  # a full rectangle
    assert ((heights < shape[0]) & (widths < shape[1])).all()
    # Before the sides are rounded, area and ratio are in the published ranges.
    area = shape[0] * shape[1]
    some = heights > 0
    assert ((heights + 0.5) * (widths + 0.5) >= 0.02 * area)[some].all()
    assert ((heights - 0.5) * (widths - 0.5) <= 0.33 * area)[some].all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3)[some].all()
    assert ((heights - 0.5) / (widths + 0.5) <= 3.3)[some].all()
    assert some.mean() > 0.9
    touched = erased[..., 0].any(0)
    assert touched.mean() > 0.9  # everywhere, up to the border


def test_random_erasing_draws_row_and_column_apart():
    images = np.ones((64, 16, 16, 3), np.float32)
    erase = jax.jit(random_erasing, static_argnums=2)
    tops, lefts = [], []
    for seed in range(4):
        erased = np.asarray(erase(keys(seed), images, 1.0))[..., 0] == 0
        rows, columns = erased.any(2), erased.any(1)
        is_square = rows.any(1) & (rows.sum(1) == columns.sum(1))  # their positions are as many
        tops.extend(rows[is_square].argmax(1))
        lefts.extend(columns[is_square].argmax(1))
    assert len(tops) > 20
    assert np.abs(np.corrcoef(tops, lefts)[0, 1]) < 0.5


def test_random_erasing_has_its_probability():
    images, erase = np.ones((64, 8, 8, 3), np.float32), jax.jit(random_erasing)
    for probability, low, high in ((0.0, 0, 0), (0.25, 6, 28)):
        erased = np.asarray(erase(keys(), images, probability))
        assert low <= np.sum(erased.min((1, 2, 3)) == 0) <= high


def test_train_with_every_augmentation_depends_on_each_image_and_key_alone():
    augment = compiled(
        padding=2,
        flip=True,
        policy="trivialaugment",
        color_jitter=(0.4, 0.4, 0.4, 0.1),
        noise=0.1,
        erasing=0.5,
    )
    batch = augment(keys(), IMAGES)
    other_keys = jnp.concatenate([keys(seed=1)[:32], keys()[32:]])
    other = augment(other_keys, np.concatenate([IMAGES[32:], IMAGES[32:]]))
    np.testing.assert_array_equal(other[32:], batch[32:])
    assert np.isfinite(batch).all()


def test_train_draws_each_augmentation_from_keys_of_its_own(monkeypatch):
    drawn = []

    def record(keys, images, *_):
        drawn.extend(map(bytes, np.asarray(jax.random.key_data(keys))))
        return images

    for name in ("random_crop", "random_flip", "color_jitter", "add_noise", "random_erasing"):
        monkeypatch.setattr(augment, name, record)
    for name in ("one", "other"):
        register_augmentation(name, "unchanged")(record)
    strengths = {"padding": 2, "color_jitter": (0.4, 0.4, 0.4, 0.1), "noise": 0.1, "erasing": 0.5}
    create_augment(settings(flip=True, policy="one + other", **strengths))(keys(), IMAGES)
    assert len(drawn) == 7 * len(IMAGES)
    assert len(set(drawn)) == len(drawn)


def test_train_applies_registered_functions_in_their_order():
    register_augmentation("invert", "negative")(lambda keys, images: 255 - images)
    register_augmentation("darken", "less light")(lambda keys, images, by=1: images >> by)
    both = compiled(policy="invert + darken")
    reverse = compiled(policy="darken+invert")
    np.testing.assert_array_equal(both(keys(), IMAGES), normal((255 - IMAGES) >> 1))
    np.testing.assert_array_equal(reverse(keys(), IMAGES), normal(255 - (IMAGES >> 1)))


def test_train_refuses_a_policy_that_changes_dtype_or_shape():
    register_augmentation("as_float", "float")(lambda keys, images: images / 255)
    augment = create_augment(settings(policy="as_float"))
    with pytest.raises(UserError, match=r"must return .* uint8 \(64, 8, 8, 3\), not float"):
        augment(keys(), IMAGES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_mode": "zeros"}, "unknown config.augment.pad_mode 'zeros'; did you mean zero"),
        ({"padding": -1}, "config.augment.padding must be at least 0, not -1"),
        ({"noise": -0.1}, "config.augment.noise must be at least 0, not -0.1"),
        ({"mean": (0.5, 0.5)}, "config.augment.mean needs three numbers"),
        ({"mean": ("a", 0.5, 0.5)}, "config.augment.mean needs three numbers"),
        ({"mean": (125, 125, 125)}, r"mean is on the scale 0 to 1, not \(125, .*; divide by 255"),
        ({"mean": (-50, 0.5, 0.5)}, r"mean is on the scale 0 to 1, not \(-50,"),
        ({"std": (1.0, 0.0, 1.0)}, "config.augment.std needs three positive numbers"),
        ({"std": (math.nan, 1.0, 1.0)}, "config.augment.std needs three positive numbers"),
        ({"std": ("a", 1.0, 1.0)}, "config.augment.std needs three numbers"),
        ({"policy": "randaug"}, "unknown config.augment.policy 'randaug'; did you mean randaugm"),
        ({"color_jitter": (0.4, 0.4)}, r"color_jitter needs four numbers .* not \(0\.4, 0\.4\)"),
        ({"color_jitter": ("a", 0.4, 0.4, 0.1)}, "color_jitter needs four numbers"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, r"shifts the hue by at most 0\.5"),
        ({"erasing": 1.5}, r"config\.augment\.erasing must be at least 0 and at most 1, not 1\.5"),
    ],
)
def test_create_augment_error_names_the_setting(changes, message):
    with pytest.raises(UserError, match=message):
        create_augment(settings(**changes))
