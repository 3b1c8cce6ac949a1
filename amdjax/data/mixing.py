"""Mixing of example pairs on the device: mixup, CutMix, moment exchange.

The partner of example i is example B - 1 - i of the batch, whose order is random already.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import unknown_name
from amdjax.models.layers import FeatureHook
from amdjax.ranges import check_ranges

MIXES = {
    "none": "no mixing",
    "mixup": "weighted mean of two images (Zhang et al., ICLR 2018)",
    "cutmix": "a box of one image pasted into another (Yun et al., ICCV 2019)",
    "moex": "moments of one layer's features exchanged in the student (Li et al., CVPR 2021)",
}
_EPS = 1e-5  # added to the variance in moment exchange


class MixedBatch(NamedTuple):
    """A mixed batch.

    Attributes:
      images: float [B,H,W,3], the input of the student.
      labels: class probabilities, float32 [B,C]; class indices, int [B], without mixing.
      feature_hook: changes a layer's features in the student's forward pass; None: no change.
    """

    images: jax.Array
    labels: jax.Array
    feature_hook: FeatureHook | None


Mix = Callable[[jax.Array, jax.Array, jax.Array, int], MixedBatch]
Reverse = Callable[[jax.Array], jax.Array]


def mixup(
    key: jax.Array, images: jax.Array, partners: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Returns `lam * image + (1 - lam) * partner` and lam, drawn once from Beta(alpha, alpha).

    Args:
      key: a random key.
      images: float [B,H,W,3].
      partners: float [B,H,W,3].
      alpha: above 0.

    Returns:
      Mixed images, float [B,H,W,3], and lam, float32 scalar.
    """
    lam = jax.random.beta(key, alpha, alpha)
    return lam * images + (1.0 - lam) * partners, lam


def cutmix(
    key: jax.Array, images: jax.Array, partners: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes the same box of every partner into its image.

    The sides of the box are `sqrt(1 - lam)` of the image's, with lam drawn from Beta(alpha, alpha);
    its centre is uniform. The box is clipped at the border, and the lam that is returned is the
    fraction of the area that was not replaced.

    Args:
      key: a random key.
      images: float [B,H,W,3].
      partners: float [B,H,W,3].
      alpha: above 0.

    Returns:
      Mixed images, float [B,H,W,3], and lam, float32 scalar.
    """
    lam_key, row_key, column_key = jax.random.split(key, 3)
    side = jnp.sqrt(1.0 - jax.random.beta(lam_key, alpha, alpha))

    def inside(key: jax.Array, length: int) -> jax.Array:
        center = jax.random.randint(key, (), 0, length)
        half = (length * side).astype(jnp.int32) // 2
        index = jnp.arange(length)
        return (index >= center - half) & (index < center + half)

    height, width = images.shape[1:3]
    box = inside(row_key, height)[:, None] & inside(column_key, width)
    return jnp.where(box[:, :, None], partners, images), 1.0 - jnp.mean(box.astype(jnp.float32))


def exchange_moments(x: jax.Array, partners: jax.Array) -> jax.Array:
    """Replaces the moments of features over the channels, at each position, by the partners'.

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


def create_mix(mix: ml_collections.ConfigDict, reverse: Reverse) -> Mix | None:
    """Creates the function that mixes a batch.

    All settings are checked here, so that this can be called before any data are prepared.

    Args:
      mix: `config.mix`.
      reverse: returns the rows of the global batch in reverse order, such as
        `distributed.reverse_batch`.

    Returns:
      (key, images float [B,H,W,3], labels int [B], number of classes) -> `MixedBatch`. With
      probability `mix.probability` the whole batch is mixed, else none of it. None: `mix.name` is
      "none".

    Raises:
      UserError: on an unknown name or a value out of range.
    """
    if mix.name not in MIXES:
        raise unknown_name("mix", mix.name, MIXES)
    check_ranges("mix", mix)

    def mix_labels(labels: jax.Array, lam: jax.Array, num_classes: int) -> jax.Array:
        one_hot = jax.nn.one_hot(labels, num_classes)
        return lam * one_hot + (1.0 - lam) * reverse(one_hot)

    def mix_images(
        key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int
    ) -> MixedBatch:
        apply_key, key = jax.random.split(key)
        apply = jax.random.bernoulli(apply_key, mix.probability)
        mixed, lam = {"mixup": mixup, "cutmix": cutmix}[mix.name](
            key, images, reverse(images), mix.alpha
        )
        labels = mix_labels(labels, jnp.where(apply, lam, 1.0), num_classes)
        return MixedBatch(jnp.where(apply, mixed, images), labels, None)

    def mix_moments(
        key: jax.Array, images: jax.Array, labels: jax.Array, num_classes: int
    ) -> MixedBatch:
        apply = jax.random.bernoulli(key, mix.probability)

        def feature_hook(layer: str, x: jax.Array) -> jax.Array:
            if layer != mix.layer:
                return x
            return jnp.where(apply, exchange_moments(x, reverse(x)), x)

        labels = mix_labels(labels, jnp.where(apply, mix.moex_lam, 1.0), num_classes)
        return MixedBatch(images, labels, feature_hook)

    return {"none": None, "mixup": mix_images, "cutmix": mix_images, "moex": mix_moments}[mix.name]
