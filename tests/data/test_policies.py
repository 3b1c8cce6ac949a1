"""Policies against torchvision's tables of operations, carried out by Pillow."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from amdjax.data import image_ops, policies
from amdjax.data.policies import AUGMENTATIONS, rand_augment, trivial_augment
from amdjax.errors import UserError
from tests.make_data import random_images

HEIGHT, WIDTH = 18, 24  # at least 255 pixels, or `equalize` changes nothing
LEVELS = 31
RAND = {
    "shear": 0.3,
    "translation": (150 / 331 * WIDTH, 150 / 331 * HEIGHT),
    "angle": 30.0,
    "strength": 0.9,
    "dropped_bits": 4,
}
TRIVIAL = {
    "shear": 0.99,
    "translation": (32.0, 32.0),
    "angle": 135.0,
    "strength": 0.99,
    "dropped_bits": 6,
}
SIGNED = ("shear", "translate", "rotate", "brightness", "color", "contrast", "sharpness")


def _keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def _reference(name: str, level: int, sign: int, image: Image.Image, space: dict) -> Image.Image:
    """Returns what torchvision computes for an operation; sign is -1 or 1."""

    def up_to(last: float) -> float:
        return (sign if name.startswith(SIGNED) else 1) * np.linspace(0, last, LEVELS)[level]

    def affine(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    x, y = (int(up_to(most)) for most in space["translation"])
    shear, factor = up_to(space["shear"]), 1 + up_to(space["strength"])
    dropped = np.round(np.arange(LEVELS) / ((LEVELS - 1) / space["dropped_bits"]))[level]
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, shear, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, shear, 1, 0),
        "translate_x": lambda: affine(1, 0, -x, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -y),
        "rotate": lambda: image.rotate(up_to(space["angle"])),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, 8 - int(dropped)),
        "solarize": lambda: ImageOps.solarize(image, np.linspace(255, 0, LEVELS)[level]),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


def _all_results(image: np.ndarray, space: dict, levels=range(LEVELS)) -> np.ndarray:
    """Returns Pillow's results of all operations, in the order of `policies.operations`."""
    names = policies.operations((HEIGHT, WIDTH), **space)
    return np.stack(
        [
            np.asarray(_reference(name, level, sign, Image.fromarray(image), space))
            for name in names
            for level in levels
            for sign in (-1, 1)
        ]
    )


@pytest.mark.parametrize("space", [RAND, TRIVIAL], ids=["rand", "trivial"])
def test_operations_equal_those_of_torchvision_at_all_levels(space):
    image = random_images(1, HEIGHT, WIDTH, 3)[0] // 2 + 50
    table = policies.operations((HEIGHT, WIDTH), **space)
    every = [operation for levels in table.values() for pair in levels for operation in pair]
    assert len(every) == 14 * LEVELS * 2
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *every)
    ours = jax.jit(image_ops.apply)(np.broadcast_to(image, (len(every), *image.shape)), stacked)
    difference = np.abs(np.asarray(ours).astype(int) - _all_results(image, space))
    assert difference.max() <= 1  # see tests/data/test_image_ops.py
    assert np.mean(difference > 0) < 0.001


def test_trivial_augment_draws_one_operation_for_each_image():
    image = random_images(1, HEIGHT, WIDTH, 3)[0] // 2 + 50
    images = np.broadcast_to(image, (200, *image.shape))
    ours = np.asarray(jax.jit(trivial_augment)(_keys(200), images)).astype(int)
    known = _all_results(image, TRIVIAL)
    nearest = [np.abs(known - result).max((1, 2, 3)).min() for result in ours]
    assert max(nearest) <= 1
    assert len(np.unique(ours, axis=0)) > 100


def test_rand_augment_draws_operations_of_one_level():
    image = random_images(1, HEIGHT, WIDTH, 3)[0] // 2 + 50
    images = np.broadcast_to(image, (200, *image.shape))
    compiled = jax.jit(rand_augment, static_argnames=("num_ops", "magnitude"))
    once = np.asarray(compiled(_keys(200), images, num_ops=1, magnitude=17)).astype(int)
    known = _all_results(image, RAND, levels=[17])
    distances = np.asarray([np.abs(known - result).max((1, 2, 3)) for result in once])
    assert distances.min(1).max() <= 1
    assert len(set(distances.argmin(1))) == 23  # 9 operations with a sign and 5 without

    twice = np.asarray(compiled(_keys(200), images, num_ops=2, magnitude=17)).astype(int)
    distances = np.asarray([np.abs(known - result).max((1, 2, 3)) for result in twice])
    known_before = np.mean(distances.min(1) <= 1)  # one of the two operations is the identity
    assert 0.05 < known_before < 0.3


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_rand_augment_refuses_a_magnitude_that_is_no_level(magnitude):
    with pytest.raises(UserError, match=f"at least 0 and at most 30, not {magnitude}"):
        rand_augment(_keys(1), random_images(1, HEIGHT, WIDTH, 3), magnitude=magnitude)


def test_register_augmentation_adds_a_function_and_its_settings():
    @policies.register_augmentation("darken", "less light")
    def darken(keys, images, shift=1):
        return images >> shift

    assert AUGMENTATIONS["darken"].function is darken
    assert AUGMENTATIONS["darken"].summary == "less light"
    assert policies.default_augmentations().darken.shift == 1
    with pytest.raises(UserError, match="augmentation 'randaugment' is already registered"):
        policies.register_augmentation("randaugment", "another")(darken)
