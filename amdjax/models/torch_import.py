"""PyTorch weights as Flax variables.

Modules have the PyTorch names with `.N` written as `_N`, so that one rule works for every family:
path `block1/layer_0/conv1/kernel` is key `block1.layer.0.conv1.weight`. Layers that have several
names in PyTorch are renamed first.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from amdjax.errors import UserError
from amdjax.models.registry import create_model
from amdjax.models.variables import check_shapes, variable_shapes

# The classifier of VGG, MobileNetV2, ShuffleNet and the CIFAR ResNet-50, and the latter's shortcut.
_CLASSIFIER = re.compile(r"^(classifier(\.[01])?|linear)\.(?=weight$|bias$)")
_SHORTCUT = re.compile(r"(?<=\.)shortcut(?=\.[01]\.)")
_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def import_torch_state_dict(name: str, state_dict: Mapping[str, Any]) -> dict:
    """Converts a PyTorch state dict to the variables of a model.

    Supported are RepDistiller's names (wide ResNets, CIFAR ResNets, VGG with batch norm, both
    ShuffleNets, `mobilenet_v2_half`), TGD's MobileNetV2, and torchvision's ResNets. Kernels are
    transposed from OIHW to HWIO, linear weights from [C,D] to [D,C]; the number of classes is that
    of the classifier's weights.

    Args:
      name: of the model, see `create_model`.
      state_dict: key -> array (NumPy, or a CPU tensor). A prefix "module." is removed, and
        `num_batches_tracked` is ignored.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 NumPy arrays.

    Raises:
      UserError: if a key is missing, unexpected or has another shape; the message names the key.
    """
    arrays = {
        _rename(key.removeprefix("module.")): _from_torch_layout(np.asarray(value))
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    if "fc.weight" not in arrays:
        raise UserError(f"PyTorch weights for {name}: 'fc.weight' is missing")
    expected = variable_shapes(create_model(name, num_classes=arrays["fc.weight"].shape[-1]))
    keys = {path: _torch_key(path) for path in expected}
    check_shapes(
        arrays,
        {keys[path]: leaf for path, leaf in expected.items()},
        f"PyTorch weights for {name} (shapes in Flax's order of axes)",
    )
    return flax.traverse_util.unflatten_dict(
        {path: np.asarray(arrays[keys[path]], leaf.dtype) for path, leaf in expected.items()},
        sep="/",
    )


def _rename(key: str) -> str:
    return _CLASSIFIER.sub("fc.", _SHORTCUT.sub("downsample", key))


def _torch_key(path: str) -> str:
    _, *modules, leaf = path.split("/")  # the first is the collection
    return ".".join([*(re.sub(r"_(?=\d)", ".", module) for module in modules), _LEAF[leaf]])


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
