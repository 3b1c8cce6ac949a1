import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from amdjax.configs import default
from amdjax.data.augment import (
    Augment,
    create_augment,
    draw_flips,
    normalize,
    random_crop,
    random_flip,
)
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
    augment = create_augment(settings(**changes))
    return Augment(train=jax.jit(augment.train), evaluate=jax.jit(augment.evaluate))


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


def test_draw_flips_returns_the_flips_of_train():
    augment = compiled(flip=True)
    is_flipped = np.asarray(draw_flips(keys()))[:, None, None, None]
    images = np.where(is_flipped, IMAGES[:, :, ::-1], IMAGES)
    np.testing.assert_array_equal(augment.train(keys(), IMAGES), augment.evaluate(images))


def test_train_augments_each_image_by_its_key_alone():
    augment = compiled(padding=2, flip=True)
    batch = augment.train(keys(), IMAGES)
    other_keys = jnp.concatenate([keys(seed=1)[:32], keys()[32:]])
    other = augment.train(other_keys, np.concatenate([IMAGES[32:], IMAGES[32:]]))
    np.testing.assert_array_equal(other[32:], batch[32:])
    assert np.abs(augment.train(keys(seed=1), IMAGES) - batch).max() > 0


def test_train_without_augmentation_equals_evaluate():
    augment = compiled(padding=0, flip=False)
    np.testing.assert_array_equal(augment.train(keys(), IMAGES), augment.evaluate(IMAGES))


def test_train_adds_gaussian_noise_of_each_example():
    augment = compiled(noise=0.15)
    noise = np.asarray(augment.train(keys(), IMAGES) - augment.evaluate(IMAGES))
    np.testing.assert_allclose(noise.std(), 0.15, rtol=0.03)
    np.testing.assert_allclose(noise.mean(), 0.0, atol=0.01)
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    only_first = augment.train(jnp.concatenate([keys()[:1], keys(seed=1)[1:]]), IMAGES)
    np.testing.assert_allclose(only_first[0] - augment.evaluate(IMAGES)[0], noise[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_mode": "zeros"}, "unknown config.augment.pad_mode 'zeros'; did you mean zero"),
        ({"padding": -1}, "config.augment.padding must be at least 0, not -1"),
        ({"noise": -0.1}, "config.augment.noise must be at least 0, not -0.1"),
        ({"mean": (0.5, 0.5)}, "config.augment.mean needs three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "config.augment.std needs three positive numbers"),
    ],
)
def test_create_augment_error_names_the_setting(changes, message):
    with pytest.raises(UserError, match=message):
        create_augment(settings(**changes))
