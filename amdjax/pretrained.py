"""Weights of a teacher that was trained before: in a run of amdjax, or in PyTorch."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from amdjax.checkpoint import read_network
from amdjax.errors import UserError
from amdjax.files import local_path
from amdjax.models import (
    check_shapes,
    create_model,
    import_torch_state_dict,
    variable_shapes,
)

# Where training scripts put the state dict inside a .pth file.
_NESTED = ("state_dict", "model_state_dict", "model", "net")


def load_teacher(path: str, name: str, num_classes: int) -> dict:
    """Reads a teacher's variables.

    Args:
      path: `config.teacher.checkpoint`: a run's folder, its `checkpoints` folder or one step in
        it (the newest is taken), or PyTorch weights as `.npz`, `.safetensors`, `.pth` or `.pt`.
      name: the model that the weights belong to.
      num_classes: that the teacher must have.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 arrays.

    Raises:
      UserError: if the file is missing, damaged, of another model, or of other classes.
    """
    file = local_path(path, "config.teacher.checkpoint")
    if not file.exists():
        raise UserError(f"config.teacher.checkpoint: {path} does not exist")
    if file.is_dir():
        variables = read_network(file)[1]
    else:
        variables = import_torch_state_dict(name, _read_file(file))
    check_variables(variables, name, num_classes, file)
    return variables


def _read_file(file: Path) -> Mapping[str, Any]:
    readers = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
    }
    if file.suffix not in readers:
        raise UserError(
            f"the teacher {file} has an unknown format: it must be a checkpoint folder or end in "
            f"{', '.join(readers)}"
        )
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the teacher {file} cannot be read: {reason}") from error


def _read_npz(file: Path) -> Mapping[str, Any]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_torch(file: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading the teacher {file} needs PyTorch (pip install torch); or convert it once: "
            "safetensors.torch.save_file(state_dict, 'teacher.safetensors')"
        ) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {key: value.numpy() for key, value in content.items() if hasattr(value, "numpy")}


def check_variables(variables: dict, name: str, num_classes: int, source: Path) -> None:
    """Makes sure that variables belong to a model.

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      name: of the model.
      num_classes: that it must have.
      source: where they were read, for the message.

    Raises:
      UserError: naming the first variable that does not fit, or the number of classes.
    """
    classes = count_classes(variables)
    if classes not in (None, num_classes):
        raise UserError(
            f"{source} has {classes} classes, the data set {num_classes}: choose a network that "
            "was trained on these classes"
        )
    check_shapes(
        flax.traverse_util.flatten_dict(variables, sep="/"),
        variable_shapes(create_model(name, num_classes)),
        f"{source} does not match {name}",
    )


def count_classes(variables: dict) -> int | None:
    """Returns the number of classes of a network; None if it has no classifier."""
    bias = variables.get("params", {}).get("fc", {}).get("bias")
    return None if bias is None else bias.shape[0]
