"""Normalisation and augmentation on the device, keyed for each example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import UserError, unknown_name

_PAD_MODES = {"zero": "constant", "reflect": "reflect"}


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Returns `(images / 255 - mean) / std`.

    Args:
      images: uint8 [B,H,W,3].
      mean: of each channel, on the scale 0 to 1.
      std: of each channel, on the scale 0 to 1.

    Returns:
      float32 [B,H,W,3].
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def random_crop(keys: jax.Array, images: jax.Array, padding: int, mode: str = "zero") -> jax.Array:
    """Pads every image on all sides and cuts a window of the old size at a random place.

    Args:
      keys: random keys [B], one for each image.
      images: uint8 [B,H,W,3].
      padding: pixels added on each side.
      mode: "zero" (black) or "reflect".

    Returns:
      uint8 [B,H,W,3].
    """
    padded = jnp.pad(
        images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=_PAD_MODES[mode]
    )

    def cut(key: jax.Array, image: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(cut)(keys, padded)


def draw_flips(keys: jax.Array) -> jax.Array:
    """Returns which images `create_augment`'s `train` mirrors, where the config has flips on.

    Args:
      keys: random keys [B], as `train` takes them.

    Returns:
      bool [B].
    """
    return _flips(_split(keys)[1])


def _split(keys: jax.Array) -> jax.Array:
    return jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)


def _flips(flip_keys: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.bernoulli)(flip_keys)


def random_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
      keys: random keys [B], one for each image.
      images: [B,H,W,3].

    Returns:
      [B,H,W,3] of the same dtype.
    """
    return jnp.where(_flips(keys)[:, None, None, None], images[:, :, ::-1], images)


def add_noise(keys: jax.Array, images: jax.Array, std: float) -> jax.Array:
    """Adds Gaussian noise to normalised images.

    Args:
      keys: random keys [B], one for each image.
      images: float [B,H,W,3].
      std: its standard deviation, on the scale of the images.

    Returns:
      float [B,H,W,3].
    """
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return images + std * noise


def create_augment(
    augment: ml_collections.ConfigDict,
) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """Makes the two functions that turn uint8 images into a network's input.

    Args:
      augment: `config.augment`.

    Returns:
      (train, evaluate): `train(keys [B], images)` crops, flips, normalises and adds noise as the
      config says; `evaluate(images)` normalises.

    Raises:
      UserError: on an unknown pad mode, negative padding or noise, or statistics of the wrong
        length.
    """
    if augment.pad_mode not in _PAD_MODES:
        raise unknown_name("augment.pad_mode", augment.pad_mode, _PAD_MODES)
    for name in ("padding", "noise"):
        if augment[name] < 0:
            raise UserError(f"augment.{name} must not be negative, not {augment[name]}")
    for name in ("mean", "std"):
        if len(augment[name]) != 3 or (name == "std" and min(augment[name]) <= 0):
            raise UserError(f"augment.{name} needs three (positive) numbers, not {augment[name]}")

    def evaluate(images: jax.Array) -> jax.Array:
        return normalize(images, augment.mean, augment.std)

    def train(keys: jax.Array, images: jax.Array) -> jax.Array:
        crop_keys, flip_keys = _split(keys)
        if augment.padding:
            images = random_crop(crop_keys, images, augment.padding, augment.pad_mode)
        if augment.flip:
            images = random_flip(flip_keys, images)
        images = evaluate(images)
        if augment.noise:
            noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 2)
            images = add_noise(noise_keys, images, augment.noise)
        return images

    return train, evaluate
