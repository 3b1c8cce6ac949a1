import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.data.augment import create_augment, normalize, random_crop, random_flip
from configs import default


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3), np.uint8))


def _keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_normalize():
    images = jnp.asarray([[[[0, 51, 255]]]], jnp.uint8)
    normal = normalize(images, (0.0, 0.2, 0.5), (1.0, 0.1, 0.25))
    np.testing.assert_allclose(normal, [[[[0.0, 0.0, 2.0]]]], atol=1e-6)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_every_crop_is_a_window_and_every_window_comes(images, mode, numpy_mode):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(images, padding, mode=numpy_mode)
    cropped = random_crop(_keys(64), images, 1, mode)
    assert cropped.dtype == jnp.uint8
    seen = set()
    for image, around in zip(cropped, padded, strict=True):
        places = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if np.array_equal(image, around[top : top + 8, left : left + 8])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9


def test_about_half_of_the_images_are_mirrored(images):
    flipped = random_flip(_keys(64), images)
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 20 <= sum(mirrored) <= 44


def test_an_image_depends_on_its_own_key_alone(images):
    config = default.get_config().augment
    config.padding, config.flip = 2, True
    train, evaluate = create_augment(config)
    keys = _keys(64)
    whole = train(keys, images)
    np.testing.assert_array_equal(train(keys[10:20], images[10:20]), whole[10:20])
    assert np.abs(whole - train(_keys(64, seed=1), images)).max() > 0
    config.padding, config.flip = 0, False
    np.testing.assert_array_equal(create_augment(config)[0](keys, images), evaluate(images))


def test_noise_is_gaussian_and_of_each_example(images):
    config = default.get_config().augment
    config.noise = 0.15
    train, evaluate = create_augment(config)
    noise = np.asarray(train(_keys(64), images) - evaluate(images))
    np.testing.assert_allclose(noise.std(), 0.15, rtol=0.03)
    np.testing.assert_allclose(noise.mean(), 0.0, atol=0.01)
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    one = train(_keys(64)[5:6], images[5:6]) - evaluate(images[5:6])
    np.testing.assert_array_equal(one, noise[5:6])
