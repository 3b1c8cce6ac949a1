"""Files of PyTorch weights: `.npz`, `.safetensors` and what `torch.save` writes."""

import argparse
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from amdjax import distributed
from amdjax.errors import UserError
from amdjax.models import import_torch_state_dict, select_network

# Where training scripts keep the weights in a .pth file; moving averages come first, since they are
# what the scripts evaluate.
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "shadow")
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "student", "module")
_SUGGESTION = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')"


def is_weight_file(file: Path) -> bool:
    """Returns whether the name of a file has the ending of a format that `read_weights` reads."""
    return _ending(file) in _READERS


def read_weights(file: Path, name: str) -> dict:
    """Reads a network's variables from a file of PyTorch weights.

    Args:
      file: `.npz`, `.safetensors`, `.pth`, `.pth.tar`, `.pt`, `.ckpt` or `.bin`.
      name: the model that the weights belong to.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.

    Raises:
      UserError: if the file is damaged, or of another model.
    """
    content = _read_file(file)
    weights = _select(content, file)
    if "logits" in weights:
        raise UserError(
            f"{file} has outputs of a teacher, not weights: give it with config.teacher.outputs"
        )
    try:
        _, left_out = select_network(weights)
        if left_out:
            distributed.print_note(
                f"{file}: not read, since not part of the network: {', '.join(left_out)}"
            )
        return import_torch_state_dict(name, weights)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _read_file(file: Path) -> Any:
    ending = _ending(file)
    if ending not in _READERS:
        raise UserError(
            f"the weights {file} have an unknown format: they must be a checkpoint folder or end "
            f"in {', '.join(_READERS)}"
        )
    try:
        return _READERS[ending](file)
    except UserError:
        raise
    except Exception as error:  # the readers raise many types on damaged files
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise UserError(f"the weights {file} cannot be read: {reason}") from error


def _ending(file: Path) -> str:
    """Returns the suffix of a file, of two parts where the second one alone does not say enough."""
    return ".pth.tar" if file.name.endswith(".pth.tar") else file.suffix


def _read_npz(file: Path) -> Mapping[str, Any]:
    # `np.load` of a path would leave a damaged file open.
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except AttributeError as error:
        raise UserError(
            f"the weights {file} have arrays of a dtype that NumPy does not have, such as float8 "
            f"({error}): use weights that are not quantised"
        ) from error


def _read_torch(file: Path) -> Any:
    """Returns the content of a file of `torch.save` with its tensors as arrays.

    Only tensors, containers and plain values are read: other objects would run code of the file.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading the weights {file} needs PyTorch (pip install torch); or convert them once: "
            "safetensors.torch.save_file(state_dict, 'weights.safetensors')"
        ) from error
    # What scripts save beside the weights, and what runs no code: options and NumPy's numbers.
    harmless = [argparse.Namespace, np.dtype, np.ndarray, *_numpy_functions()]
    harmless += [type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "bool")]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about archives of TorchScript, which are refused
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ValueError("it is damaged, or not a file of torch.save") from error
        raise UserError(
            f"the weights {file} hold an object of {found[1]}, which cannot be read without "
            f"running code of the file; in the program that wrote it, {_SUGGESTION}"
        ) from error
    except RuntimeError as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"the weights {file} are a program of TorchScript; in PyTorch, load it with "
                f"torch.jit.load, and {_SUGGESTION}"
            ) from error
        raise

    def to_numpy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach()
            return (value.float() if value.is_floating_point() else value).numpy()
        if isinstance(value, Mapping):
            return {key: to_numpy(entry) for key, entry in value.items()}
        return [to_numpy(entry) for entry in value] if isinstance(value, list | tuple) else value

    return to_numpy(content)


def _numpy_functions() -> list[Any]:
    """Returns the functions by which pickles make NumPy's scalars and arrays."""
    return [np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]]


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".ckpt": _read_torch,
    ".bin": _read_torch,
    ".pth.tar": _read_torch,
}


def _select(content: Any, file: Path) -> dict[str, Any]:
    """Returns the state dict in what a training script has saved.

    Raises:
      UserError: if there is none.
    """
    if isinstance(content, list):
        dicts = [entry for entry in content if _has_arrays(entry)]
        if len(dicts) != 1:
            raise UserError(
                f"the weights {file} are a list of {len(content)} entries, of which {len(dicts)} "
                f"name their arrays; {_SUGGESTION}"
            )
        return _select(dicts[0], file)
    if not _has_arrays(content):
        raise UserError(f"the weights {file} hold no arrays with names; {_SUGGESTION}")
    for key in (*_AVERAGES, *_NESTED):
        if _has_arrays(content.get(key)):
            if key in _AVERAGES:
                distributed.print_note(f"{file}: the moving averages {key!r} are used")
            return _select(content[key], file)
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}


def _has_arrays(content: Any) -> bool:
    """Returns whether a dictionary, or one in it, has arrays."""
    return isinstance(content, Mapping) and any(
        isinstance(value, np.ndarray) or _has_arrays(value) for value in content.values()
    )
