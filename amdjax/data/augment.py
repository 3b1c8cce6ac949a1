"""Normalisation and augmentation on the device, with a random key for each example."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import UserError, unknown_name

_PAD_MODES = {"zero": "constant", "reflect": "reflect"}


class Augment(NamedTuple):
    """The two functions from uint8 images to the input of a network.

    Attributes:
      train: (keys [B], images [B,H,W,3]) -> float32 [B,H,W,3]; crops, flips, normalises and adds
        noise as configured.
      evaluate: images [B,H,W,3] -> float32 [B,H,W,3]; normalises.
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]


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
    """Returns a mask of the images that `Augment.train` flips if `config.augment.flip` is set.

    Args:
      keys: random keys [B], the same as `Augment.train` gets.

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


def create_augment(augment: ml_collections.ConfigDict) -> Augment:
    """Creates the training and the evaluation transform from `config.augment`.

    All settings are checked here, so that this can be called before any data are prepared.

    Raises:
      UserError: on an unknown pad mode, negative padding or noise, or a mean or standard
        deviation that is not three numbers.
    """
    if augment.pad_mode not in _PAD_MODES:
        raise unknown_name("config.augment.pad_mode", augment.pad_mode, _PAD_MODES)
    for name in ("padding", "noise"):
        if augment[name] < 0:
            raise UserError(f"config.augment.{name} must be at least 0, not {augment[name]}")
    if len(augment.mean) != 3:
        raise UserError(f"config.augment.mean needs three numbers, not {augment.mean}")
    if len(augment.std) != 3 or min(augment.std) <= 0:
        raise UserError(f"config.augment.std needs three positive numbers, not {augment.std}")

    def evaluate(images: jax.Array) -> jax.Array:
        return normalize(images, augment.mean, augment.std)

    def train(keys: jax.Array, images: jax.Array) -> jax.Array:
        crop_keys, flip_keys = _split_keys(keys)
        if augment.padding:
            images = random_crop(crop_keys, images, augment.padding, augment.pad_mode)
        if augment.flip:
            images = random_flip(flip_keys, images)
        images = evaluate(images)
        if augment.noise:
            noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
            images = add_noise(noise_keys, images, augment.noise)
        return images

    return Augment(train, evaluate)
