"""Flax variables as PyTorch weights: the inverse of `amdjax.models.import_torch_state_dict`."""

import re
from typing import Any

import flax.traverse_util
import numpy as np

from amdjax.errors import UserError
from amdjax.models import create_model
from amdjax.models.layers import Model
from amdjax.models.mobilenet import MobileNetV2, MobileNetV2Half
from amdjax.models.resnet import CifarResNet, ImageNetResNet
from amdjax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from amdjax.models.torch_import import torch_key
from amdjax.models.vgg import VGG
from amdjax.models.wrn import WideResNet

# Families with a published definition -> the name of the classifier in it.
_CLASSIFIERS: dict[type[Model], str] = {
    WideResNet: "fc",
    CifarResNet: "fc",
    ImageNetResNet: "fc",
    VGG: "classifier",
    MobileNetV2: "classifier.1",
    MobileNetV2Half: "classifier.0",
    ShuffleNetV1: "linear",
    ShuffleNetV2: "linear",
}


def to_torch_state_dict(name: str, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a network's variables with the names and the layout of its published definition.

    The names are those of RepDistiller (wide ResNets, CIFAR ResNets, VGG, both ShuffleNets,
    `mobilenet_v2_half`), of TGD (`mobilenet_v2`), of torchvision (ResNet-18, 34 and 50) and of
    pytorch-cifar (`cifar_resnet50`).
    Convolution kernels are OIHW, linear weights [C,D]. `num_batches_tracked` is left out:
    `load_state_dict` does not need it.

    Args:
      name: of the model, see `create_model`.
      variables: {"params": ..., "batch_stats": ...}.

    Returns:
      key -> float32 array.

    Raises:
      UserError: if the network has no published definition.
    """
    module = create_model(name, num_classes=1)
    classifier = _CLASSIFIERS.get(type(module))
    if classifier is None:
        raise UserError(
            f"the network {name} has no published PyTorch definition; choose another format than "
            "torch"
        )
    in_pytorch_cifar = isinstance(module, ImageNetResNet) and module.small_stem
    if in_pytorch_cifar:
        classifier = "linear"
    state_dict = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items():
        key = re.sub(r"^fc(?=\.)", classifier, torch_key(path))
        if in_pytorch_cifar:
            key = key.replace("downsample", "shortcut")
        state_dict[key] = _to_torch_layout(np.asarray(leaf))
    return state_dict


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    return np.array(array, order="C")  # a copy that PyTorch may write to
