"""Weights of a ResNet-8 with the names of PyTorch, and files of them."""

import re
from pathlib import Path

import numpy as np
import safetensors.numpy

from tests.reference_values import load, prefixed


def resnet8_weights() -> dict[str, np.ndarray]:
    """Returns a state dict: the first block of each stage of a ResNet-20."""
    weights = prefixed(load("model_resnet20"), "param")
    return {key: value for key, value in weights.items() if not re.match(r"layer\d\.[12]", key)}


def save_npz(path: Path, weights: dict) -> Path:
    """Writes an .npz file, and returns its path with the suffix."""
    np.savez(path.with_suffix(".npz"), **weights)
    return path.with_suffix(".npz")


def save_safetensors(path: Path, weights: dict) -> Path:
    """Writes a .safetensors file, and returns its path with the suffix."""
    contiguous = {key: np.ascontiguousarray(value) for key, value in weights.items()}
    safetensors.numpy.save_file(contiguous, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")
