"""PyTorch weights as Flax variables.

Modules have the PyTorch names with `.N` written as `_N`, so that one rule works for every family:
path `block1/layer_0/conv1/kernel` is key `block1.layer.0.conv1.weight`. Layers that have several
names in PyTorch are renamed first.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from amdjax.errors import UserError, first_line, first_names
from amdjax.models.registry import create_model
from amdjax.models.variables import check_variable_shapes, variable_shapes

# Names of other published definitions of the same networks, and what they become.
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # The classifier of VGG, MobileNetV2, ShuffleNet and pytorch-cifar's ResNets.
        (r"^(classifier(\.[01])?|linear)\.(?=weight$|bias$)", "fc."),
        (r"(?<=\.)shortcut(?=\.[01]\.)", "downsample"),  # pytorch-cifar's ResNets
        # TGD's wide ResNets.
        (r"(?<=\.)nblockLayer(?=\.)", "layer"),
        (r"(?<=\.)batch_norm(?=[12]\.)", "bn"),
        (r"(?<=\.)conv_inp(?=\.)", "convShortcut"),
        (r"^batch_norm(?=\.)", "bn1"),
    )
)
_WRAPPED = re.compile(r"^module\.|(?:^|(?<=\.))_orig_mod\.")  # DataParallel, torch.compile
# Attributes under which training code keeps the network, moving averages first.
_ATTRIBUTES = ("ema_model.", "model_ema.", "student.", "model.", "net.", "network.")
_NOT_WEIGHTS = re.compile(r"(?:^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$")
_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def import_torch_state_dict(name: str, state_dict: Mapping[str, Any]) -> dict:
    """Converts a PyTorch state dict to the variables of a model.

    These names are supported: those of RepDistiller (wide ResNets, CIFAR ResNets, VGG with batch
    norm, both ShuffleNets, `mobilenet_v2_half`), of TGD (wide ResNets, MobileNetV2), of
    pytorch-cifar (its ResNet-50 is `cifar_resnet50`), of pytorch-cifar-models (ResNets), and of
    torchvision and timm (ResNets). Kernels are transposed from OIHW to HWIO, linear weights from
    [C,D] to [D,C]; the number of classes is that of the classifier's weights.

    Args:
      name: of the model, see `create_model`.
      state_dict: key -> array of any floating-point type, or PyTorch tensor that NumPy can read:
        on the CPU, without a gradient and not in bfloat16. See `select_network`.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 NumPy arrays; the latter is {} without batch
      norm.

    Raises:
      UserError: if there is no such model, or a key is missing, unexpected, there under two names,
        or has another shape or type; the message names the key.
    """
    subject = f"PyTorch weights for {name}"
    weights = _renamed(select_network(state_dict)[0], _rename)
    arrays = {
        key: _from_torch_layout(_to_float32(value, f"{subject}: {key!r}"))
        for key, value in weights.items()
    }
    classifier = arrays.get("fc.weight", np.empty(()))
    if classifier.ndim != 2:
        raise UserError(f"{subject}: 'fc.weight' is missing{_describe(arrays)}")
    shapes = variable_shapes(create_model(name, num_classes=classifier.shape[-1]))
    keys = {path: torch_key(path) for path in shapes}
    expected = {keys[path]: leaf for path, leaf in shapes.items()}
    missing = [key for key in expected if key not in arrays]
    if missing and (extra := arrays.keys() - expected.keys()):
        raise UserError(f"{subject}: {missing[0]!r} is missing{_describe(extra)}")
    check_variable_shapes(arrays, expected, f"{subject} (shapes in Flax's order of axes)")
    for key, value in weights.items():
        if not jnp.issubdtype(dtype := np.asarray(value).dtype, jnp.floating):
            raise UserError(
                f"{subject}: {key!r} is {dtype}, not floating point; save the weights as they were "
                "before the quantisation"
            )
    variables = {path: arrays[keys[path]] for path in shapes}
    return {"batch_stats": {}, **flax.traverse_util.unflatten_dict(variables, sep="/")}


def select_network(state_dict: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Finds the weights of a network among those of what it is wrapped in.

    The prefixes of DataParallel (`module.`) and torch.compile (`_orig_mod.`) are removed, and that
    of an attribute such as Lightning's `model.`; a student is preferred to its teacher, and moving
    averages to the weights that they average. Counters such as `num_batches_tracked` are left out.

    Args:
      state_dict: key -> array.

    Returns:
      (key -> array of the network, first parts of the keys of what is left out).

    Raises:
      UserError: if a key is not a string, or is there with and without a prefix.
    """
    for key in state_dict:
        if not isinstance(key, str):
            raise UserError(
                f"PyTorch weights have the key {key!r}; keys must be names such as 'conv1.weight'"
            )
    weights = {key: value for key, value in state_dict.items() if not _NOT_WEIGHTS.search(key)}
    left_out: set[str] = set()
    while True:
        stripped = _renamed(weights, lambda key: _WRAPPED.sub("", key))
        for prefix in _ATTRIBUTES:
            if any(key.startswith(prefix) for key in stripped):
                others = [key for key in stripped if not key.startswith(prefix)]
                left_out.update(key.split(".")[0] for key in others)
                stripped = {
                    key.removeprefix(prefix): value
                    for key, value in stripped.items()
                    if key.startswith(prefix)
                }
                break
        if stripped.keys() == weights.keys():
            return weights, sorted(left_out)
        weights = stripped


def _describe(keys: Iterable[str]) -> str:
    names = [repr(key) for key in sorted(keys)]
    return f", but there are {first_names(names)}" if names else ""


def _to_float32(value: Any, subject: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor raises all three
        hint = "; pass value.detach().cpu().float()" if hasattr(value, "detach") else ""
        raise UserError(
            f"{subject} is not an array of numbers that NumPy can read ({first_line(error)}){hint}"
        ) from error


def _renamed(weights: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Returns arrays under other names.

    Raises:
      UserError: if two of them get the same name.
    """
    origins: dict[str, str] = {}
    for key in weights:
        other = origins.setdefault(rename(key), key)
        if other != key:
            raise UserError(
                f"PyTorch weights have {other!r} and {key!r}, which are names of the same array; "
                "remove the one that is not part of the network"
            )
    return {name: weights[key] for name, key in origins.items()}


def _rename(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def torch_key(path: str) -> str:
    """Returns the key of a variable in a state dict, with "fc" for the classifier.

    Args:
      path: of the variable: "params/block1/layer_0/conv1/kernel".
    """
    _, *modules, leaf = path.split("/")  # the first is the collection
    return ".".join([*(re.sub(r"_(?=\d)", ".", module) for module in modules), _LEAF[leaf]])


def _from_torch_layout(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array
