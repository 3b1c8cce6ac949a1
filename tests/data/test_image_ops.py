"""Operations on images against Pillow's, which torchvision uses for its images."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from amdjax.data import image_ops
from tests.make_data import random_images

SHAPE = (18, 24, 3)  # at least 255 pixels, or equalisation changes nothing


def _images() -> np.ndarray:
    """Images with all levels, with few levels, of one level, and of one level but for a pixel."""
    noise = random_images(2, *SHAPE)
    constant = np.full((2, *SHAPE), 7, np.uint8)
    constant[1, 3, 4] = (0, 9, 255)
    return np.concatenate([noise[:1], noise[1:] // 8 + 100, constant])


@jax.jit
def _apply(images, operation):
    return image_ops.apply(images, operation)


def _ours(operation: image_ops.Operation) -> np.ndarray:
    """The results for `_images`, of a program that is compiled once."""
    images = _images()
    repeated = jax.tree.map(lambda x: np.broadcast_to(x, (len(images), *np.shape(x))), operation)
    return np.asarray(_apply(images, repeated))


def _pillows(function) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(image))) for image in _images()])


@pytest.mark.parametrize(
    "matrix",
    [(1, 0.3, 0, 0, 1, 0), (1, 0, 0, -0.77, 1, 0), (1, 0, 5, 0, 1, -3), (0.5, 1, 2, -1, 2, 4)],
)
def test_affine_equals_that_of_pillow(matrix):
    theirs = _pillows(lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix))
    np.testing.assert_array_equal(_ours(image_ops.affine(matrix)), theirs)


@pytest.mark.parametrize("degrees", [0, 9, -30, 90, 135, -180])
def test_rotation_equals_that_of_pillow(degrees):
    ours = _ours(image_ops.rotation(degrees, *SHAPE[:2]))
    np.testing.assert_array_equal(ours, _pillows(lambda image: image.rotate(degrees)))


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.73, 1.0, 1.27, 1.9])
@pytest.mark.parametrize(
    ("degenerate", "enhance"),
    [
        (image_ops.BLACK, ImageEnhance.Brightness),
        (image_ops.MEAN, ImageEnhance.Contrast),
        (image_ops.GRAY, ImageEnhance.Color),
        (image_ops.SMOOTH, ImageEnhance.Sharpness),
    ],
)
def test_blending_equals_the_enhancement_of_pillow(degenerate, enhance, factor):
    ours = _ours(image_ops.blending(degenerate, factor)).astype(int)
    theirs = _pillows(lambda image: enhance(image).enhance(factor))
    # Products are rounded in another order: rarely, a whole level becomes the one below.
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.005


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterizing_equals_that_of_pillow(bits):
    theirs = _pillows(lambda image: ImageOps.posterize(image, bits))
    np.testing.assert_array_equal(_ours(image_ops.posterizing(bits)), theirs)


@pytest.mark.parametrize("threshold", [0.0, 59.5, 128.0, 255.0, 256.0])
def test_solarizing_equals_that_of_pillow(threshold):
    theirs = _pillows(lambda image: ImageOps.solarize(image, threshold))
    np.testing.assert_array_equal(_ours(image_ops.solarizing(threshold)), theirs)


def test_equalization_equals_that_of_pillow():
    np.testing.assert_array_equal(_ours(image_ops.EQUALIZATION), _pillows(ImageOps.equalize))


def test_auto_contrast_equals_that_of_pillow():
    ours = _ours(image_ops.AUTO_CONTRAST).astype(int)
    theirs = _pillows(ImageOps.autocontrast)
    assert np.abs(ours - theirs).max() <= 1  # Pillow's rounding error, where a level is whole
    assert np.mean(ours != theirs) < 0.02


def test_identity_changes_nothing():
    np.testing.assert_array_equal(_ours(image_ops.IDENTITY), _images())


def test_shift_hue_equals_that_of_pillow():
    images = random_images(5, 64, 64, 3)
    images[0, :2] = [[[0]], [[255]]]
    images[1, 0, :3] = np.diag([255, 255, 255])
    shifts = np.asarray([0, 25, 127, -12, -127], np.int32)
    theirs = []
    for image, shift in zip(images, shifts, strict=True):
        hue, *others = Image.fromarray(image).convert("HSV").split()
        shifted = Image.fromarray(np.asarray(hue) + np.asarray(shift).astype(np.uint8))
        theirs.append(np.asarray(Image.merge("HSV", (shifted, *others)).convert("RGB")))
    ours = np.asarray(jax.jit(image_ops.shift_hue)(images, shifts)).astype(int)
    difference = np.abs(ours - theirs)
    # A hue that is a whole level is sometimes the one below in Pillow: 6 of 255 levels at most.
    assert difference.max() <= 6
    assert np.mean(difference > 0) < 0.002
