"""Flax variables as PyTorch weights: the inverse of `amdjax.models.import_torch_state_dict`."""

import re
from typing import Any

import flax.traverse_util
import numpy as np

from amdjax.models.torch_import import torch_key

# Beginning of a model's name, without separators -> name of the classifier in the published
# definition; "fc" in all others.
_CLASSIFIERS = (
    ("vgg", "classifier"),
    ("mobilenetv2half", "classifier.0"),
    ("mobilenetv2", "classifier.1"),
    ("shufflenet", "linear"),
    ("cifarresnet50", "linear"),
)


def to_torch_state_dict(name: str, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a network's variables with the names and the layout of its published definition.

    The names are those of RepDistiller (wide ResNets, CIFAR ResNets, VGG, both ShuffleNets,
    `mobilenet_v2_half`), of TGD (`mobilenet_v2`) and of torchvision (ResNet-18, 34 and 50).
    Convolution kernels are OIHW, linear weights [C,D]. `num_batches_tracked` is left out:
    `load_state_dict` does not need it.

    Args:
      name: of the model, see `create_model`.
      variables: {"params": ..., "batch_stats": ...}.

    Returns:
      key -> float32 array.
    """
    model = re.sub(r"[-_]", "", name.strip().lower())
    classifier = next((value for prefix, value in _CLASSIFIERS if model.startswith(prefix)), "fc")
    state_dict = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables, sep="/").items():
        key = re.sub(r"^fc(?=\.)", classifier, torch_key(path))
        if model == "cifarresnet50":
            key = key.replace("downsample", "shortcut")
        state_dict[key] = _to_torch_layout(np.asarray(leaf))
    return state_dict


def _to_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:
        array = array.T
    return np.array(array, order="C")  # a copy that PyTorch may write to
