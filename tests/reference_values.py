"""Reading of the reference values, in this project's order of axes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "reference"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(_FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def cases(name: str) -> Iterator[dict[str, np.ndarray]]:
    """Yields each case of a file, features as NHWC, without the number in the keys."""
    arrays = load(name)
    k = 0
    while f"loss_{k}" in arrays:
        yield {
            key.removesuffix(f"_{k}"): nhwc(value)
            for key, value in arrays.items()
            if key.endswith(f"_{k}")
        }
        k += 1
    assert k == int(arrays.get("n", k)) > 0, f"{name} has no cases, or other than it says"


def prefixed(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays whose key starts with `prefix/`, without it."""
    return {
        key.removeprefix(f"{prefix}/"): value
        for key, value in arrays.items()
        if key.startswith(f"{prefix}/")
    }
