"""Augmentation policies: RandAugment, TrivialAugment, and the registry for others.

Their operations are those of torchvision for Pillow's images with its defaults: nearest neighbour,
and black where an image ends. An operation has 31 levels of strength.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from amdjax.data import image_ops
from amdjax.data.image_ops import Operation
from amdjax.ranges import MAX_MAGNITUDE, check_ranges
from amdjax.registry import registering

_NUM_LEVELS = MAX_MAGNITUDE + 1


class AugmentationSpec(NamedTuple):
    """An entry of the registry.

    Attributes:
      function: (keys [B], images uint8 [B,H,W,3]) -> uint8 [B,H,W,3]. Image i of the result may
        depend on key i and image i alone. Arguments with a default are settings of
        `config.augment.NAME`.
      summary: one line for `--list`.
    """

    function: Callable[..., jax.Array]
    summary: str

    def defaults(self) -> dict[str, Any]:
        """Returns the settings with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


AUGMENTATIONS: dict[str, AugmentationSpec] = {}

_Function = TypeVar("_Function", bound=Callable[..., jax.Array])


def register_augmentation(name: str, summary: str) -> Callable[[_Function], _Function]:
    """Returns a decorator that registers a function of random keys and images as an augmentation.

    What is decorated returns images, uint8 [B,H,W,3], for (keys [B], images uint8 [B,H,W,3]). It is
    compiled as part of the training step. Image i may depend on key i and image i alone, so that
    the number of devices does not matter; `jax.vmap` makes such a function of one for an image.

    Args:
      name: of the augmentation, for `config.augment.policy`.
      summary: description in one line, for `--list`.

    Raises:
      UserError: if the name is taken.
    """
    return registering(
        AUGMENTATIONS, "augmentation", name, lambda function: AugmentationSpec(function, summary)
    )


def default_augmentations() -> ml_collections.ConfigDict:
    """Returns the settings of all registered augmentations that have any, for `config.augment`."""
    settings = {name: spec.defaults() for name, spec in AUGMENTATIONS.items()}
    return ml_collections.ConfigDict({name: value for name, value in settings.items() if value})


def policy_names(policy: str) -> list[str]:
    """Returns the names that `config.augment.policy` joins by "+"; [] for "none"."""
    return [] if policy == "none" else [name.strip() for name in policy.split("+")]


@register_augmentation("randaugment", "RandAugment: several operations of one strength")
def rand_augment(
    keys: jax.Array, images: jax.Array, num_ops: int = 2, magnitude: int = 9
) -> jax.Array:
    """Applies `num_ops` random operations of one level to each image, one after the other.

    Source: Cubuk et al., RandAugment, CVPR workshops 2020; levels and operations as in torchvision.

    Args:
      keys: random keys [B], one per image.
      images: uint8 [B,H,W,3].
      num_ops: operations per image; one may be drawn twice.
      magnitude: the level, 0 to 30.

    Returns:
      uint8 [B,H,W,3].

    Raises:
      UserError: if the magnitude is not a level.
    """
    check_ranges("augment.randaugment", {"magnitude": magnitude})
    height, width = images.shape[1:3]
    choices = operations(
        (height, width),
        shear=0.3,
        translation=(150 / 331 * width, 150 / 331 * height),
        angle=30.0,
        strength=0.9,
        dropped_bits=4,
    )
    choices = {name: levels[magnitude : magnitude + 1] for name, levels in choices.items()}

    def apply(number: jax.Array, images: jax.Array) -> jax.Array:
        op_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        return image_ops.apply(images, draw_operations(op_keys, choices))

    return jax.lax.fori_loop(0, num_ops, apply, images)


@register_augmentation("trivialaugment", "TrivialAugment (wide): one operation of random strength")
def trivial_augment(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Applies one random operation of a random level to each image.

    Source: Mueller and Hutter, TrivialAugment, ICCV 2021, with the wide levels; as in torchvision.

    Args:
      keys: random keys [B], one per image.
      images: uint8 [B,H,W,3].

    Returns:
      uint8 [B,H,W,3].
    """
    choices = operations(
        images.shape[1:3],
        shear=0.99,
        translation=(32.0, 32.0),
        angle=135.0,
        strength=0.99,
        dropped_bits=6,
    )
    return image_ops.apply(images, draw_operations(keys, choices))


def operations(
    shape: tuple[int, ...],
    *,
    shear: float,
    translation: tuple[float, float],
    angle: float,
    strength: float,
    dropped_bits: int,
) -> dict[str, list[tuple[Operation, Operation]]]:
    """Returns the operations of a policy, from no strength to the given one.

    Args:
      shape: (H, W) of the images.
      shear: pixels per pixel.
      translation: pixels to the right and downwards, rounded towards zero at each level.
      angle: of a rotation, in degrees.
      strength: by which the factor of `image_ops.blend` differs from 1.
      dropped_bits: of the 8 bits of a level, dropped by "posterize".

    Returns:
      name -> for each of the 31 levels, the operation of negative and of positive sign.
    """

    def signed(operation: Callable[[float], Operation], last: float) -> list:
        values = np.linspace(0.0, last, _NUM_LEVELS)
        return [(operation(-value), operation(value)) for value in values]

    def unsigned(operation: Callable[[float], Operation], first: float, last: float) -> list:
        return [(operation(value),) * 2 for value in np.linspace(first, last, _NUM_LEVELS)]

    def constant(operation: Operation) -> list:
        return [(operation,) * 2] * _NUM_LEVELS

    def blended(degenerate: int) -> list:
        return signed(lambda value: image_ops.blending(degenerate, 1.0 + value), strength)

    affine = image_ops.affine
    return {
        "identity": constant(image_ops.IDENTITY),
        "shear_x": signed(lambda value: affine((1, value, 0, 0, 1, 0)), shear),
        "shear_y": signed(lambda value: affine((1, 0, 0, value, 1, 0)), shear),
        "translate_x": signed(lambda value: affine((1, 0, -int(value), 0, 1, 0)), translation[0]),
        "translate_y": signed(lambda value: affine((1, 0, 0, 0, 1, -int(value))), translation[1]),
        "rotate": signed(lambda value: image_ops.rotation(value, *shape), angle),
        "brightness": blended(image_ops.BLACK),
        "color": blended(image_ops.GRAY),
        "contrast": blended(image_ops.MEAN),
        "sharpness": blended(image_ops.SMOOTH),
        "posterize": unsigned(
            lambda value: image_ops.posterizing(8 - round(value)), 0.0, dropped_bits
        ),
        "solarize": unsigned(image_ops.solarizing, 255.0, 0.0),
        "auto_contrast": constant(image_ops.AUTO_CONTRAST),
        "equalize": constant(image_ops.EQUALIZATION),
    }


def draw_operations(
    keys: jax.Array, choices: dict[str, list[tuple[Operation, Operation]]]
) -> Operation:
    """Draws operation, level and sign for each key, all with equal probability.

    Args:
      keys: random keys [B].
      choices: as `operations` returns them, of any number of levels.

    Returns:
      An operation whose arrays have a first axis B.
    """
    table = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(op for levels in choices.values() for pair in levels for op in pair),
    )
    count = len(table.table)

    def draw(key: jax.Array) -> Operation:
        index = jax.random.randint(key, (), 0, count)
        return jax.tree.map(lambda values: jnp.asarray(values)[index], table)

    return jax.vmap(draw)(keys)
