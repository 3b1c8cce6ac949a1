"""Normalisation and augmentation on the device, with a random key for each example."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.data import image_ops
from amdjax.data.policies import AUGMENTATIONS, policy_names
from amdjax.errors import UserError, unknown_name
from amdjax.ranges import check_ranges

_PAD_MODES = {"zero": "constant", "reflect": "reflect"}
# An erased rectangle: fraction of the image's area, ratio of height to width, draws until it fits.
_ERASED_AREA = (0.02, 0.33)
_ERASED_RATIO = (0.3, 3.3)
_ERASING_ATTEMPTS = 10
# What the key of an example is folded with for each use but the crop and the flip, whose keys
# `_split_keys` splits: these are the keys folded with 0 and 1. Policies count on from the last.
_NOISE, _COLOR, _ERASE, _POLICY = 2, 3, 4, 5


# (random keys [B], images uint8 [B,H,W,3]) -> input of a network, float32 [B,H,W,3].
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Returns `(images / 255 - mean) / std`.

    Args:
      images: uint8 [B,H,W,3].
      mean: mean of each channel, for values from 0 to 1.
      std: standard deviation of each channel, for values from 0 to 1.

    Returns:
      float32 [B,H,W,3].
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def random_crop(keys: jax.Array, images: jax.Array, padding: int, mode: str = "zero") -> jax.Array:
    """Pads each image on all sides and crops a window of the original size at a random position.

    Args:
      keys: random keys [B], one per image.
      images: uint8 [B,H,W,3].
      padding: pixels added on each side.
      mode: "zero" (black) or "reflect".

    Returns:
      uint8 [B,H,W,3].
    """
    padded = jnp.pad(
        images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=_PAD_MODES[mode]
    )

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


def draw_flips(keys: jax.Array) -> jax.Array:
    """Returns a mask of the images that `create_augment` flips if `config.augment.flip` is set.

    Args:
      keys: random keys [B], the same as the augmentation gets.

    Returns:
      bool [B].
    """
    _, flip_keys = _split_keys(keys)
    return _flip_mask(flip_keys)


def _split_keys(keys: jax.Array) -> jax.Array:
    """Splits keys [B] into keys [2,B], for the crop and for the flip."""
    return jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)


def _flip_mask(flip_keys: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.bernoulli)(flip_keys)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Flips each image left to right with probability 1/2.

    Args:
      keys: random keys [B], one per image.
      images: [B,H,W,3].

    Returns:
      [B,H,W,3] of the same dtype.
    """
    return jnp.where(_flip_mask(keys)[:, None, None, None], images[:, :, ::-1], images)


def add_noise(keys: jax.Array, images: jax.Array, std: float) -> jax.Array:
    """Adds Gaussian noise to normalised images.

    Args:
      keys: random keys [B], one per image.
      images: float [B,H,W,3].
      std: standard deviation of the noise, in units of the normalised images.

    Returns:
      float [B,H,W,3].
    """
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return images + std * noise


def color_jitter(
    keys: jax.Array,
    images: jax.Array,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image, in random order.

    The first three are blends with black, the mean luma and the luma, whose factor is uniform in
    [max(0, 1 - x), 1 + x]; the hue is shifted by a uniform part of the circle in [-x, x]. Those of
    strength 0 are left out. As in torchvision, for Pillow's images.

    Args:
      keys: random keys [B], one per image.
      images: uint8 [B,H,W,3].
      brightness: at least 0.
      contrast: at least 0.
      saturation: at least 0.
      hue: 0 to 0.5.

    Returns:
      uint8 [B,H,W,3].
    """
    strengths = (brightness, contrast, saturation, hue)
    changes = jnp.asarray([i for i, strength in enumerate(strengths) if strength], jnp.int32)
    if not changes.size:
        return images
    low = jnp.asarray([max(0.0, 1.0 - x) for x in strengths[:3]] + [-hue], jnp.float32)
    high = jnp.asarray([1.0 + x for x in strengths[:3]] + [hue], jnp.float32)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        order_key, amount_key = jax.random.split(key)
        order = jax.random.permutation(order_key, changes)
        return order, jax.random.uniform(amount_key, (4,), minval=low, maxval=high)[order]

    def apply(images: jax.Array, change: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        kind, amount = change[0][:, None, None, None], change[1]
        degenerate = jnp.select(
            [kind == 0, kind == 1],
            [jnp.zeros((), jnp.uint8), image_ops.mean_gray(images)],
            image_ops.grayscale(images),
        )
        changed = image_ops.blend(degenerate, images, amount)
        if hue:
            shift = jnp.trunc(255 * amount).astype(jnp.int32)
            changed = jnp.where(kind == 3, image_ops.shift_hue(images, shift), changed)
        return changed, None

    order, amounts = jax.vmap(draw)(keys)
    return jax.lax.scan(apply, images, (order.T, amounts.T))[0]


def random_erasing(keys: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Sets a random rectangle of an image to zero: the mean colour of normalised images.

    Its area is uniform in 2 % to 33 % of the image's, the logarithm of height / width uniform
    between those of 0.3 and 3.3, its position uniform. A rectangle as high or wide as the image is
    drawn again, at most ten times. Source: Zhong et al., Random erasing, AAAI 2020; as in
    torchvision.

    Args:
      keys: random keys [B], one per image.
      images: float [B,H,W,3].
      probability: with which an image is erased.

    Returns:
      float [B,H,W,3].
    """
    height, width = images.shape[1:3]

    def inside(key: jax.Array) -> jax.Array:
        apply_key, area_key, ratio_key, row_key, column_key = jax.random.split(key, 5)
        attempts = (_ERASING_ATTEMPTS,)
        low, high = _ERASED_AREA
        area = height * width * jax.random.uniform(area_key, attempts, minval=low, maxval=high)
        low, high = map(math.log, _ERASED_RATIO)
        ratio = jnp.exp(jax.random.uniform(ratio_key, attempts, minval=low, maxval=high))
        rows, columns = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (rows < height) & (columns < width)
        first = jnp.argmax(fits)
        rows, columns = rows[first].astype(jnp.int32), columns[first].astype(jnp.int32)
        top = jax.random.randint(row_key, (), 0, height - rows + 1)
        left = jax.random.randint(column_key, (), 0, width - columns + 1)
        y, x = jnp.arange(height)[:, None], jnp.arange(width)
        box = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
        return box & fits[first] & jax.random.bernoulli(apply_key, probability)

    return jnp.where(jax.vmap(inside)(keys)[..., None], 0.0, images)


def _fold_in(keys: jax.Array, use: int) -> jax.Array:
    """Returns the keys [B] of one use of the examples' keys [B]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, use)


def _policies(augment: ml_collections.ConfigDict) -> list[Callable[..., jax.Array]]:
    """Returns the functions that `config.augment.policy` names, with their settings."""
    return [
        functools.partial(AUGMENTATIONS[name].function, **augment.get(name, {}))
        for name in policy_names(augment.policy)
    ]


def _check_policy(augment: ml_collections.ConfigDict, key: str) -> None:
    """Raises UserError if a policy, "policy" or "strong_policy", names an unknown augmentation."""
    for name in policy_names(augment[key]):
        if name not in AUGMENTATIONS:
            raise unknown_name(f"config.augment.{key}", name, ("none", *AUGMENTATIONS))


def create_augment(augment: ml_collections.ConfigDict) -> Augment:
    """Creates the training transform from `config.augment`.

    As configured, it crops, flips, applies the policy and jitters colours, normalises, adds noise
    and erases, in this order. All settings are checked here, so that this can be called before any
    data are prepared.

    Raises:
      UserError: on an unknown pad mode or policy, a value out of range, or a list of another
        length.
    """
    if augment.pad_mode not in _PAD_MODES:
        raise unknown_name("config.augment.pad_mode", augment.pad_mode, _PAD_MODES)
    check_ranges("augment", augment)
    for name in ("mean", "std"):
        values = augment[name]
        if len(values) != 3 or not all(isinstance(x, int | float) for x in values):
            raise UserError(f"config.augment.{name} needs three numbers, not {values}")
    if not all(0 <= x <= 1 for x in augment.mean):
        raise UserError(
            f"config.augment.mean is on the scale 0 to 1, not {augment.mean}; divide by 255"
        )
    if not all(0 < x < math.inf for x in augment.std):
        raise UserError(f"config.augment.std needs three positive numbers, not {augment.std}")
    strengths = augment.color_jitter
    if len(strengths) != 4 or not all(isinstance(x, int | float) and x >= 0 for x in strengths):
        raise UserError(
            "config.augment.color_jitter needs four numbers of at least 0, for brightness, "
            f"contrast, saturation and hue, not {strengths}"
        )
    if strengths[3] > 0.5:
        raise UserError(
            "config.augment.color_jitter shifts the hue by at most 0.5, half of the circle, not "
            f"{strengths[3]}"
        )
    _check_policy(augment, "policy")
    policies = _policies(augment)

    def transform(keys: jax.Array, images: jax.Array) -> jax.Array:
        crop_keys, flip_keys = _split_keys(keys)
        if augment.padding:
            images = random_crop(crop_keys, images, augment.padding, augment.pad_mode)
        if augment.flip:
            images = random_flip(flip_keys, images)
        for use, policy in enumerate(policies, start=_POLICY):
            images = _checked(policy(_fold_in(keys, use), images), images)
        if any(strengths):
            images = color_jitter(_fold_in(keys, _COLOR), images, *strengths)
        images = normalize(images, augment.mean, augment.std)
        if augment.noise:
            images = add_noise(_fold_in(keys, _NOISE), images, augment.noise)
        if augment.erasing:
            images = random_erasing(_fold_in(keys, _ERASE), images, augment.erasing)
        return images

    return transform


def create_strong_augment(augment: ml_collections.ConfigDict) -> Augment:
    """Creates the training transform of the second view that some losses compare with the first.

    It is that of `create_augment` with the policy of `config.augment.strong_policy`.

    Raises:
      UserError: see `create_augment`.
    """
    _check_policy(augment, "strong_policy")
    strong = augment.copy_and_resolve_references()
    strong.policy = augment.strong_policy
    return create_augment(strong)


def _checked(result: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the result of a policy, after a check of its shape and dtype."""
    if result.shape != images.shape or result.dtype != jnp.uint8:
        raise UserError(
            "an augmentation must return images of the shape that it gets, "
            f"uint8 {images.shape}, not {result.dtype} {result.shape}"
        )
    return result
