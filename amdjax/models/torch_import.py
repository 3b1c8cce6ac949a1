"""PyTorch weights as Flax variables.

The models' modules carry the PyTorch names with `.N` written as `_N`, so one rule serves every
family: path `block1/layer_0/conv1/kernel` is key `block1.layer.0.conv1.weight`.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from amdjax.errors import UserError
from amdjax.models.registry import create_model

# What VGG, MobileNetV2 and ShuffleNetV2 call the last layer there.
_CLASSIFIER = re.compile(r"^(classifier|classifier\.1|linear)\.(?=weight$|bias$)")
_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def import_torch_state_dict(name: str, state_dict: Mapping[str, Any]) -> dict:
    """Turns a PyTorch state dict into the variables of the model of that name.

    Understood are the wide ResNets, CIFAR ResNets, VGG with batch norm and ShuffleNetV2 of
    RepDistiller's naming, TGD's MobileNetV2, and torchvision's ResNets. Kernels are transposed from
    OIHW to HWIO, linear weights from [C,D] to [D,C]; the number of classes is that of the last
    layer's weights.

    Args:
      name: a name that `create_model` takes.
      state_dict: key -> array (NumPy, or a CPU tensor). A prefix "module." is dropped, and
        `num_batches_tracked` is ignored.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 NumPy arrays.

    Raises:
      UserError: if a key is missing or of another shape, or if keys are left over; it names them.
    """
    arrays = {
        _CLASSIFIER.sub("fc.", key.removeprefix("module.")): np.asarray(value)
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    if "fc.weight" not in arrays:
        raise UserError(f"PyTorch weights for {name}: the key 'fc.weight' is missing")
    model = create_model(name, num_classes=arrays["fc.weight"].shape[0])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    imported = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
        key = _torch_key(path)
        if key not in arrays:
            raise UserError(f"PyTorch weights for {name}: the key {key!r} is missing")
        array = _from_torch_layout(arrays.pop(key))
        if array.shape != leaf.shape:
            raise UserError(
                f"PyTorch weights for {name}: {key!r} has the shape {array.shape} "
                f"(in Flax's order of axes), expected {leaf.shape}"
            )
        imported[path] = np.asarray(array, leaf.dtype)
    if arrays:
        left = ", ".join(sorted(arrays)[:3])
        raise UserError(f"PyTorch weights for {name}: {len(arrays)} keys too many ({left}, ...)")
    return flax.traverse_util.unflatten_dict(imported)


def _torch_key(path: tuple[str, ...]) -> str:
    *modules, leaf = path[1:]  # path[0] is the collection
    return ".".join([*(re.sub(r"_(\d+)$", r".\1", module) for module in modules), _LEAF[leaf]])


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
