"""Pillow's operations on images, each image of a batch with its own strength.

torchvision's augmentations are made of them for images of Pillow, and so are those of published
results. The values are Pillow's; where its rounding errors move a whole number below the next one,
single pixels differ by one level.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = 256  # of a channel
_ONE = 1 << 16  # 1 in the fixed-point numbers of `warp`
# The degenerate images of `blend`, see `Operation`.
BLACK, MEAN, GRAY, SMOOTH = range(4)
# The tables that depend on the image, see `Operation`.
NO_TABLE, STRETCH, EQUALIZE = range(3)

_Values = Any  # NumPy's in a list of operations, JAX's in a program


class Operation(NamedTuple):
    """The parameters of one operation for each image; all but one leave the image as it is.

    Attributes:
      coefficients: int32 [...,6], of `warp`.
      degenerate: int32 [...], the image to blend with: `BLACK`, `MEAN`, `GRAY` or `SMOOTH`.
      factor: float32 [...], of `blend`; 1 leaves an image as it is.
      mask: int32 [...], the bits of a level that are kept.
      threshold: float32 [...], from which on levels are inverted.
      table: int32 [...]: `NO_TABLE`, `STRETCH` or `EQUALIZE`.
    """

    coefficients: _Values
    degenerate: _Values
    factor: _Values
    mask: _Values
    threshold: _Values
    table: _Values


def _fixed_point(matrix: tuple[float, ...]) -> np.ndarray:
    """Returns (a, b, c, d, e, f) in units of 1/65536, with c and f at the centre of a pixel."""
    a, b, c, d, e, f = matrix
    centred = (a, b, c + 0.5 * a + 0.5 * b, d, e, f + 0.5 * d + 0.5 * e)
    return np.asarray([math.floor(value * _ONE + 0.5) for value in centred], np.int32)


IDENTITY = Operation(
    coefficients=_fixed_point((1, 0, 0, 0, 1, 0)),
    degenerate=np.int32(BLACK),
    factor=np.float32(1),
    mask=np.int32(255),
    threshold=np.float32(256),
    table=np.int32(NO_TABLE),
)


def affine(matrix: tuple[float, ...]) -> Operation:
    """Returns the operation whose pixel (x, y) is the input's (a x + b y + c, d x + e y + f)."""
    return IDENTITY._replace(coefficients=_fixed_point(matrix))


def rotation(degrees: float, height: int, width: int) -> Operation:
    """Returns the rotation about the centre, counter-clockwise."""
    angle = -math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return affine((cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


def blending(degenerate: int, factor: float) -> Operation:
    """Returns the operation `blend` with one of the degenerate images."""
    return IDENTITY._replace(degenerate=np.int32(degenerate), factor=np.float32(factor))


def posterizing(bits: int) -> Operation:
    """Returns the operation that keeps the upper `bits` bits of each level."""
    return IDENTITY._replace(mask=np.int32(256 - (1 << (8 - bits))))


def solarizing(threshold: float) -> Operation:
    """Returns the operation that inverts the levels from `threshold` on."""
    return IDENTITY._replace(threshold=np.float32(threshold))


AUTO_CONTRAST = IDENTITY._replace(table=np.int32(STRETCH))
EQUALIZATION = IDENTITY._replace(table=np.int32(EQUALIZE))


def apply(images: jax.Array, operation: Operation) -> jax.Array:
    """Applies an operation to each image.

    All images pass one warp, one blend and one table, of which an operation changes one: a branch
    for each operation would compute all of them for all images.

    Args:
      images: uint8 [B,H,W,3].
      operation: whose arrays have a first axis B.

    Returns:
      uint8 [B,H,W,3].
    """
    images = warp(images, operation.coefficients)
    choices = jnp.stack(
        jnp.broadcast_arrays(
            jnp.zeros_like(images), mean_gray(images), grayscale(images), smooth(images)
        )
    )
    degenerate = jax.vmap(lambda kind, image: image[kind], (0, 1))(operation.degenerate, choices)
    images = blend(degenerate, images, operation.factor)
    return apply_tables(images, _tables(images, operation))


def warp(images: jax.Array, coefficients: jax.Array) -> jax.Array:
    """Moves pixels by an affine map, with the nearest neighbour; black where there is none.

    Args:
      images: uint8 [B,H,W,3], at most 32,767 pixels wide and high.
      coefficients: int32 [B,6], (a, b, c, d, e, f) in units of 1/65536: pixel (x, y) of the result
        is pixel (floor(a x + b y + c), floor(d x + e y + f)) of the image.

    Returns:
      uint8 [B,H,W,3].
    """
    height, width = images.shape[1:3]
    y, x = jnp.mgrid[:height, :width]

    def warp_one(image: jax.Array, coefficients: jax.Array) -> jax.Array:
        a, b, c, d, e, f = coefficients
        column, row = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = jnp.where(inside, row * width + column, 0)
        return jnp.where(inside[..., None], image.reshape(-1, 3)[index], 0)

    return jax.vmap(warp_one)(images, coefficients)


def blend(degenerate: jax.Array, images: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns `degenerate + factor * (image - degenerate)`, clipped and rounded down.

    Args:
      degenerate: uint8, of a shape that can be broadcast to that of the images.
      images: uint8 [B,H,W,3].
      factor: float [B], at least 0.

    Returns:
      uint8 [B,H,W,3].
    """
    degenerate, images = degenerate.astype(jnp.float32), images.astype(jnp.float32)
    blended = degenerate + factor[:, None, None, None] * (images - degenerate)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def grayscale(images: jax.Array) -> jax.Array:
    """Returns the luma `0.299 R + 0.587 G + 0.114 B`, uint8 [B,H,W,1], of uint8 [B,H,W,3]."""
    red, green, blue = jnp.split(images.astype(jnp.int32), 3, axis=-1)
    return ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).astype(jnp.uint8)


def mean_gray(images: jax.Array) -> jax.Array:
    """Returns the mean luma of each image, uint8 [B,1,1,1], of uint8 [B,H,W,3]."""
    pixels = images.shape[1] * images.shape[2]
    total = jnp.sum(grayscale(images).astype(jnp.int32), axis=(1, 2), keepdims=True)
    return ((2 * total + pixels) // (2 * pixels)).astype(jnp.uint8)


def smooth(images: jax.Array) -> jax.Array:
    """Returns the weighted mean of 3x3 pixels, the one in the middle with weight 5.

    The pixels at the border stay as they are.

    Args:
      images: uint8 [B,H,W,3].

    Returns:
      uint8 [B,H,W,3].
    """
    x = images.astype(jnp.int32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set(_quotient(2 * total + 13, 26).astype(jnp.uint8))


def apply_tables(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Replaces each level by that of a table.

    Args:
      images: uint8 [B,H,W,3].
      tables: uint8 [B,3,256], of each image and channel.

    Returns:
      uint8 [B,H,W,3].
    """
    channels = jnp.arange(3)
    return jax.vmap(lambda image, table: table[channels, image])(images, tables)


def stretching_table(images: jax.Array) -> jax.Array:
    """Returns the tables, int32 [B,3,256], that stretch each channel of uint8 [B,H,W,3].

    `255 (level - low) / (high - low)`, rounded down, of the lowest and the highest level; a channel
    of one level stays as it is.
    """
    low, high = (
        reduce(images, axis=(1, 2)).astype(jnp.int32)[..., None] for reduce in (jnp.min, jnp.max)
    )
    levels = jnp.arange(_LEVELS)
    above = jnp.clip(levels, low, high) - low
    stretched = _quotient(255 * above, jnp.maximum(high - low, 1)).astype(jnp.int32)
    return jnp.where(low < high, stretched, levels)


def equalizing_table(images: jax.Array) -> jax.Array:
    """Returns the tables, int32 [B,3,256], that equalise the histograms of uint8 [B,H,W,3].

    `(step // 2 + pixels of lower levels) // step`, where 255 steps are all pixels but those of the
    highest level; a channel with less than one pixel in a step stays as it is.
    """
    channels = jnp.arange(images.shape[0] * 3).reshape(-1, 1, 1, 3)
    bins = (channels * _LEVELS + images).ravel()
    histogram = jnp.zeros(channels.size * _LEVELS, jnp.int32).at[bins].add(1)
    histogram = histogram.reshape(-1, 3, _LEVELS)
    lower = jnp.cumsum(histogram, axis=-1) - histogram
    highest = jnp.max(images, axis=(1, 2)).astype(jnp.int32)
    step = jnp.take_along_axis(lower, highest[..., None], axis=-1) // 255
    equal = _quotient(step // 2 + lower, jnp.maximum(step, 1)).astype(jnp.int32)
    return jnp.where(step > 0, jnp.minimum(equal, 255), jnp.arange(_LEVELS))


def _tables(images: jax.Array, operation: Operation) -> jax.Array:
    """Returns the tables, uint8 [B,3,256], of an operation."""
    mask, threshold, kind = (
        value[:, None, None] for value in (operation.mask, operation.threshold, operation.table)
    )
    levels = jnp.arange(_LEVELS)
    fixed = jnp.where(levels < threshold, levels & mask, 255 - levels)
    tables = jnp.where(
        kind == STRETCH,
        stretching_table(images),
        jnp.where(kind == EQUALIZE, equalizing_table(images), fixed),
    )
    return tables.astype(jnp.uint8)


def shift_hue(images: jax.Array, shift: jax.Array) -> jax.Array:
    """Shifts the hue, with Pillow's 256 levels for each of hue, saturation and value.

    One pixel in a thousand differs from Pillow's, by at most one level of the hue, where a hue is a
    whole level and Pillow's rounding error is below it.

    Args:
      images: uint8 [B,H,W,3].
      shift: int32 [B], in levels; 255 levels are the whole circle.

    Returns:
      uint8 [B,H,W,3].
    """
    red, green, blue = jnp.moveaxis(images.astype(jnp.float32), -1, 0)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    saturation = _quotient(255 * chroma, jnp.maximum(value, 1)) / 255
    # The hue in sixths of the circle, times chroma; red is at 0, green at 2 and blue at 4.
    hue = jnp.where(
        red == value,
        jnp.where(green < blue, 6 * chroma, 0) + green - blue,
        jnp.where(green == value, 2 * chroma + blue - red, 4 * chroma + red - green),
    )
    level = _quotient(255 * hue, 6 * jnp.maximum(chroma, 1)).astype(jnp.int32)
    hue = ((level + shift[:, None, None]) & 255) * 6 / 255

    def channel(start: int) -> jax.Array:
        distance = jnp.where(hue + start < 6, hue + start, hue + start - 6)
        weight = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
        return jnp.floor(value * (1 - saturation * weight) + 0.5)

    return jnp.stack([channel(start) for start in (5, 3, 1)], axis=-1).astype(jnp.uint8)


def _quotient(numerator: jax.Array, denominator: jax.Array | int) -> jax.Array:
    """Returns the quotient of whole numbers from 0 to 2^22, rounded down.

    In floating point: the division of integers takes ten times as long on CPUs.
    """
    return jnp.floor((numerator + 0.5) / denominator)
