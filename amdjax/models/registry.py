"""Registry of the models."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax.numpy as jnp

from amdjax.errors import UserError, unknown_name
from amdjax.models.convnet import ConvNet
from amdjax.models.layers import Dtype, Model
from amdjax.models.mobilenet import MobileNetV2, MobileNetV2Half
from amdjax.models.resnet import CifarResNet, ImageNetResNet
from amdjax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from amdjax.models.vgg import VGG
from amdjax.models.wrn import WideResNet
from amdjax.registry import register

_CIFAR_DEPTHS = (8, 14, 20, 26, 32, 44, 56, 80, 110)
_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_WIDE = ((10, 1), (10, 2), (16, 1), (16, 2), (16, 3), (16, 8), (28, 1), (28, 3), (40, 1), (40, 2))
_VGG_CONVOLUTIONS = {8: (1, 1, 1, 1, 1), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


_WIDE_NAME = re.compile(r"wrn[-_]?(\d+)[-_](\d+)")


class ModelSpec(NamedTuple):
    """An entry of the registry.

    Attributes:
      builder: (num_classes, dtype, axis_name) -> model; keyword arguments.
      summary: one line for `--list`.
    """

    builder: Callable[..., Model]
    summary: str


# The papers' networks; `create_model` also builds wide ResNets of any other depth and width.
MODELS: dict[str, ModelSpec] = {
    **{
        f"wrn_{depth}_{widen}": ModelSpec(
            partial(WideResNet, depth, widen), f"WRN-{depth}-{widen}, for small images"
        )
        for depth, widen in _WIDE
    },
    **{
        f"resnet{depth}": ModelSpec(
            partial(CifarResNet, depth), f"ResNet-{depth}, for small images"
        )
        for depth in _CIFAR_DEPTHS
    },
    **{
        f"resnet{depth}x4": ModelSpec(
            partial(CifarResNet, depth, (32, 64, 128, 256)),
            f"ResNet-{depth}, four times as wide, for small images",
        )
        for depth in (8, 32)
    },
    **{
        f"resnet{depth}": ModelSpec(
            partial(ImageNetResNet, blocks, depth >= 50), f"ResNet-{depth}, for ImageNet"
        )
        for depth, blocks in _IMAGENET_BLOCKS.items()
    },
    "cifar_resnet50": ModelSpec(
        partial(ImageNetResNet, _IMAGENET_BLOCKS[50], True, True),
        "ResNet-50 with a small stem, for small images",
    ),
    **{
        f"vgg{depth}": ModelSpec(
            partial(VGG, counts), f"VGG-{depth} with batch norm, for small images"
        )
        for depth, counts in _VGG_CONVOLUTIONS.items()
    },
    "mobilenet_v2": ModelSpec(MobileNetV2, "MobileNetV2, the narrow variant of the AMD paper"),
    "mobilenet_v2_half": ModelSpec(
        MobileNetV2Half, "MobileNetV2 at half width, RepDistiller's variant for small images"
    ),
    "shufflenet_v1": ModelSpec(ShuffleNetV1, "ShuffleNet 1x with 3 groups, for small images"),
    "shufflenet_v2": ModelSpec(ShuffleNetV2, "ShuffleNetV2 1x, for small images"),
    "amc_net": ModelSpec(
        partial(ConvNet, ((64,) * 3, (128,) * 3, (256, 128))), "the AMC paper's 8 convolutions"
    ),
    "conv13": ModelSpec(
        partial(ConvNet, ((128,) * 3, (256,) * 3, (512, 256, 128))),
        "the 13-layer network of the Pi model, on which the AMC code is based",
    ),
}


_Builder = TypeVar("_Builder", bound=Callable[..., Model])


def register_model(name: str, summary: str) -> Callable[[_Builder], _Builder]:
    """Returns a decorator that registers a network.

    What is decorated is a subclass of `Model`, or a function that returns such a linen module. It
    is called with the keyword arguments `num_classes`, `dtype` and `axis_name` of `create_model`.

    Args:
      name: of the network, for `config.teacher.name` and `config.student.name`.
      summary: description in one line, for `--list`.

    Raises:
      UserError: if the name is taken, or these arguments cannot be passed.
    """

    def decorate(builder: _Builder) -> _Builder:
        key = _without_separators(name)
        twins = [model for model in MODELS if _without_separators(model) == key and model != name]
        if twins or _WIDE_NAME.fullmatch(name):
            raise UserError(
                f"the network {name!r} exists already as "
                f"{twins[0] if twins else 'a wide ResNet'}; choose another name"
            )
        try:
            inspect.signature(builder).bind(num_classes=2, dtype=jnp.float32, axis_name=None)
        except TypeError as error:
            raise UserError(
                f"the network {name!r} cannot be called with num_classes, dtype and axis_name "
                f"({error}); derive it from amdjax.models.Model"
            ) from error
        register(MODELS, "network", name, ModelSpec(builder, summary), builder)
        return builder

    return decorate


def _without_separators(name: str) -> str:
    return re.sub(r"[-_]", "", name)


def canonical_model_name(name: str) -> str:
    """Returns the name of a network as the registry has it: "WRN-16-2" is "wrn_16_2".

    An unknown name is returned unchanged.
    """
    key = name.strip().lower()
    if wide := _WIDE_NAME.fullmatch(key):
        return f"wrn_{int(wide[1])}_{int(wide[2])}"
    names = {_without_separators(known): known for known in MODELS}
    return names.get(_without_separators(key), name)


def create_model(
    name: str, num_classes: int, dtype: Dtype = jnp.float32, axis_name: str | None = None
) -> Model:
    """Creates a model by its name.

    Args:
      name: a key of `MODELS`, or `wrn_D_K` with depth D = 6n + 4 and widening factor K. Letter
        case and separators are ignored: `WRN-16-2` is `wrn_16_2`, `ResNet-20` is `resnet20`.
      num_classes: C.
      dtype: of the computation; parameters, statistics, embedding and logits stay float32.
      axis_name: mapped axis along which the batch is divided, see `Model`; None: not divided.

    Returns:
      A linen module; `model.apply(variables, images, train=...)` returns `Outputs`.

    Raises:
      UserError: if the name is unknown or the family has no network of that depth and width.
    """
    key = canonical_model_name(name)
    if wide := _WIDE_NAME.fullmatch(key):
        depth, widen = int(wide[1]), int(wide[2])
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise UserError(
                f"network {name!r}: a wide ResNet needs a depth of 6n + 4 (10, 16, 22, 28, 34, 40, "
                "...) and a width of at least 1"
            )
        builder: Callable[..., Model] = partial(WideResNet, depth, widen)
    elif key in MODELS:
        builder = MODELS[key].builder
    else:
        raise unknown_name("network", name, MODELS)
    return builder(num_classes=num_classes, dtype=dtype, axis_name=axis_name)
