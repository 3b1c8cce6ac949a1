"""The networks by name."""

import functools
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax import distributed
from amdjax.errors import UserError, unknown_name
from amdjax.models.convnet import ConvNet
from amdjax.models.layers import Dtype
from amdjax.models.mobilenet import MobileNetV2
from amdjax.models.resnet import CifarResNet, ImageNetResNet
from amdjax.models.shufflenet import ShuffleNetV2
from amdjax.models.vgg import VGG
from amdjax.models.wrn import WideResNet

_CIFAR_DEPTHS = (8, 14, 20, 26, 32, 44, 56, 80, 110)
_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_WIDE = ((10, 1), (10, 2), (16, 1), (16, 2), (16, 3), (16, 8), (28, 1), (28, 3), (40, 1), (40, 2))
_VGG_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


class Entry(NamedTuple):
    """A known network.

    Attributes:
      builder: (num_classes, dtype, axis_name) -> linen module.
      summary: one line for people.
    """

    builder: Callable[..., nn.Module]
    summary: str


# The papers' networks; wide ResNets of any other depth and width are made from their name too.
MODELS: dict[str, Entry] = {
    **{
        f"wrn_{depth}_{widen}": Entry(
            partial(WideResNet, depth, widen), f"WRN-{depth}-{widen}, for small images"
        )
        for depth, widen in _WIDE
    },
    **{
        f"resnet{depth}": Entry(partial(CifarResNet, depth), f"ResNet-{depth}, for small images")
        for depth in _CIFAR_DEPTHS
    },
    **{
        f"resnet{depth}": Entry(
            partial(ImageNetResNet, blocks, depth >= 50), f"ResNet-{depth}, for ImageNet"
        )
        for depth, blocks in _IMAGENET_BLOCKS.items()
    },
    **{
        f"vgg{depth}": Entry(partial(VGG, counts), f"VGG-{depth} with batch norm, for small images")
        for depth, counts in _VGG_CONVOLUTIONS.items()
    },
    "mobilenet_v2": Entry(MobileNetV2, "MobileNetV2, the narrow variant of the AMD paper"),
    "shufflenet_v2": Entry(ShuffleNetV2, "ShuffleNetV2 1x, for small images"),
    "amc_net": Entry(
        partial(ConvNet, ((64,) * 3, (128,) * 3, (256, 128))), "the AMC paper's 8 convolutions"
    ),
    "conv13": Entry(
        partial(ConvNet, ((128,) * 3, (256,) * 3, (512, 256, 128))),
        "the larger network of the AMC code's ancestors (Pi model)",
    ),
}


def create_model(
    name: str, num_classes: int, dtype: Dtype = jnp.float32, axis_name: str | None = None
) -> nn.Module:
    """Makes a network from its name.

    Args:
      name: a key of `MODELS`, or `wrn_D_K` with depth D = 6n + 4 and widening factor K. Letter
        case and separators do not matter: `WRN-16-2` is `wrn_16_2`, `ResNet-20` is `resnet20`.
      num_classes: C.
      dtype: of the computation; parameters, statistics, embedding and logits stay float32.
      axis_name: mapped axis over which batch norm averages in training; None: this shard alone.

    Returns:
      A linen module; `module.apply(variables, images, train=...)` returns `Outputs`.

    Raises:
      UserError: if the name is unknown or the depth is none that the family has.
    """
    key = name.strip().lower()
    same = {re.sub(r"[-_]", "", known): entry.builder for known, entry in MODELS.items()}
    builder = same.get(re.sub(r"[-_]", "", key))
    if wide := re.fullmatch(r"wrn[-_]?(\d+)[-_](\d+)", key):
        depth, widen = int(wide[1]), int(wide[2])
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise UserError(
                f"model {name!r}: a wide ResNet needs a depth of 6n + 4 (10, 16, 22, 28, 34, 40, "
                "...) and a width of at least 1"
            )
        builder = partial(WideResNet, depth, widen)
    if builder is None:
        raise unknown_name("model", name, MODELS)
    return builder(num_classes=num_classes, dtype=dtype, axis_name=axis_name)


def init_variables(model: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> dict:
    """Draws a network's first variables.

    Args:
      model: from `create_model`.
      key: a JAX random key.
      image_shape: (H, W, 3).

    Returns:
      {"params": ..., "batch_stats": ...}, all float32.
    """
    return _initializer(model, tuple(image_shape))(key)


@functools.cache  # networks of equal definition are equal, so that all seeds share one program
def _initializer(model: nn.Module, image_shape: tuple[int, ...]) -> Callable[[jax.Array], dict]:
    return distributed.jit(lambda key: model.init(key, jnp.zeros((1, *image_shape), jnp.float32)))
