"""Mixing each example with a partner, on the device: mixup, CutMix, moment exchange.

Partners are the reverse of the batch, which is a random one: example i meets B - 1 - i.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import UserError, unknown_name
from amdjax.models.layers import FeatureHook

MIXES = {
    "none": "every image alone",
    "mixup": "weighted mean of two images (Zhang et al., ICLR 2018)",
    "cutmix": "a box of one image in the other (Yun et al., ICCV 2019)",
    "moex": "moments of one feature on the other, inside the student (Li et al., CVPR 2021)",
}
_EPS = 1e-5  # of moment exchange: added to the variance


class MixedBatch(NamedTuple):
    """A mixed batch.

    Attributes:
      images: float [B,H,W,3], the student's.
      labels: class probabilities float32 [B,C]; int [B] where nothing is mixed.
      feature_hook: what to change inside the student; None: nothing.
    """

    images: jax.Array
    labels: jax.Array
    feature_hook: FeatureHook | None


Mix = Callable[[jax.Array, jax.Array, jax.Array, int], MixedBatch]
Reverse = Callable[[jax.Array], jax.Array]


def mixup(
    key: jax.Array, images: jax.Array, partners: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns `l * image + (1 - l) * partner` and l, one draw from Beta(alpha, alpha) for all.

    Args:
      key: a random key.
      images: float [B,H,W,3].
      partners: float [B,H,W,3].
      alpha: above 0.

    Returns:
      float [B,H,W,3] and float32 scalar.
    """
    share = jax.random.beta(key, alpha, alpha)
    return share * images + (1.0 - share) * partners, share


def cutmix(
    key: jax.Array, images: jax.Array, partners: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes the same box of every partner into its image.

    The box has the sides `sqrt(1 - l)` of the image's, l from Beta(alpha, alpha), and a uniform
    centre; what lies outside the image is lost, and l becomes the share that is truly kept.

    Args:
      key: a random key.
      images: float [B,H,W,3].
      partners: float [B,H,W,3].
      alpha: above 0.

    Returns:
      float [B,H,W,3] and l, float32 scalar.
    """
    share_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha))

    def inside(key: jax.Array, length: int) -> jax.Array:
        center = jax.random.randint(key, (), 0, length)
        half = (length * side).astype(jnp.int32) // 2
        place = jnp.arange(length)
        return (place >= center - half) & (place < center + half)

    height, width = images.shape[1:3]
    box = inside(row_key, height)[:, None] & inside(column_key, width)
    return jnp.where(box[:, :, None], partners, images), 1.0 - jnp.mean(box.astype(jnp.float32))


def exchange_moments(x: jax.Array, partners: jax.Array) -> jax.Array:
    """Gives features the moments of their partners', at each position over the channels.

    `(x - mean) / std * std_partner + mean_partner`, std with C - 1 in its divisor and 1e-5 added to
    the variance, as in the published code.

    Args:
      x: float [B,H,W,C].
      partners: float [B,H,W,C].

    Returns:
      [B,H,W,C] of x's dtype.
    """

    def moments(feature: jax.Array) -> tuple[jax.Array, jax.Array]:
        feature = feature.astype(jnp.float32)
        variance = jnp.var(feature, axis=-1, keepdims=True, ddof=1)
        return jnp.mean(feature, axis=-1, keepdims=True), jnp.sqrt(variance + _EPS)

    (mean, std), (partner_mean, partner_std) = moments(x), moments(partners)
    return ((x - mean) / std * partner_std + partner_mean).astype(x.dtype)


def create_mix(mix: ml_collections.ConfigDict, reverse: Reverse) -> Mix:
    """Makes the function that mixes a batch.

    Args:
      mix: `config.mix`.
      reverse: the rows of the global batch in reverse order; see `distributed.reverse_batch`.

    Returns:
      (key, images float [B,H,W,3], labels int [B], number of classes) -> `MixedBatch`. A batch is
      mixed as a whole, with the config's probability.

    Raises:
      UserError: on an unknown name, or a value out of its range.
    """
    if mix.name not in MIXES:
        raise unknown_name("mix", mix.name, MIXES)
    if mix.alpha <= 0:
        raise UserError(f"config.mix.alpha must be above 0, not {mix.alpha}")
    for name in ("probability", "moex_lam"):
        if not 0 <= mix[name] <= 1:
            raise UserError(f"config.mix.{name} must be between 0 and 1, not {mix[name]}")

    def soft(labels: jax.Array, share: jax.Array, num_classes: int) -> jax.Array:
        own = jax.nn.one_hot(labels, num_classes)
        return share * own + (1.0 - share) * reverse(own)

    def untouched(
        key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int
    ) -> MixedBatch:
        return MixedBatch(images, labels, None)

    def of_images(
        key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int
    ) -> MixedBatch:
        whether, key = jax.random.split(key)
        mixes = jax.random.bernoulli(whether, mix.probability)
        mixed, share = {"mixup": mixup, "cutmix": cutmix}[mix.name](
            key, images, reverse(images), mix.alpha
        )
        labels = soft(labels, jnp.where(mixes, share, 1.0), num_classes)
        return MixedBatch(jnp.where(mixes, mixed, images), labels, None)

    def of_moments(
        key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int
    ) -> MixedBatch:
        mixes = jax.random.bernoulli(key, mix.probability)

        def feature_hook(place: str, x: jax.Array) -> jax.Array:
            if place != mix.layer:
                return x
            return jnp.where(mixes, exchange_moments(x, reverse(x)), x)

        labels = soft(labels, jnp.where(mixes, mix.moex_lam, 1.0), num_classes)
        return MixedBatch(images, labels, feature_hook)

    return {"none": untouched, "moex": of_moments}.get(mix.name, of_images)
