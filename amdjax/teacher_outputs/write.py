"""Writing of the file of a teacher's outputs, see `stored`."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from amdjax import __version__
from amdjax.data import Dataset
from amdjax.files import writing_to
from amdjax.teacher_outputs.stored import METADATA, held_out_settings


def write_outputs(
    path: Path,
    batches: Iterable[Mapping[str, np.ndarray]],
    dataset: Dataset,
    data: ml_collections.ConfigDict,
) -> None:
    """Writes a file of a teacher's outputs, whole or not at all.

    Args:
      path: NAME.npz, or a folder that does not exist: its arrays are written to the disk batch by
        batch, and so may be larger than the memory.
      batches: the arrays of each batch, from `compute.compute_outputs`.
      dataset: whose training images the rows belong to.
      data: `config.data`.

    Raises:
      UserError: if the disk is full, naming the folder.
    """
    partial = path.with_name(f"{path.name}.partial")
    _remove(partial)  # of a process that was killed
    try:
        _write_arrays(partial, path.suffix != ".npz", batches, dataset, data)
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    """Removes a file or folder if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_arrays(
    path: Path,
    in_folder: bool,
    batches: Iterable[Mapping[str, np.ndarray]],
    dataset: Dataset,
    data: ml_collections.ConfigDict,
) -> None:
    """Writes the arrays of `write_outputs` to a folder or to one file."""
    if in_folder:
        path.mkdir()
    count = len(dataset.train)
    arrays: dict[str, Any] = {}
    first = 0
    for batch in batches:  # outside of `writing_to`: a teacher may raise an OSError
        for name, rows in batch.items():
            if in_folder:
                with writing_to(path.parent):
                    _append(path / f"{name}.npy", rows, count)
            else:
                if name not in arrays:
                    arrays[name] = np.empty((count, *rows.shape[1:]), rows.dtype)
                arrays[name][first : first + len(rows)] = rows
        first += len(next(iter(batch.values())))
    metadata = np.array(
        json.dumps(
            {
                "amdjax": __version__,
                "data": dataset.fingerprint.to_dict(),
                "held_out": held_out_settings(data),
            }
        )
    )
    with writing_to(path.parent):
        if in_folder:
            np.save(path / f"{METADATA}.npy", metadata)
        else:
            with path.open("wb") as file:
                np.savez(file, **{**arrays, METADATA: metadata})


def _append(path: Path, rows: np.ndarray, count: int) -> None:
    """Appends rows to a .npy file for `count` rows, which is created with the first of them.

    The system ends a process (SIGBUS) that writes to a memory map of a file on a full disk.
    """
    with path.open("ab") as file:
        if file.tell() == 0:
            descr = np.lib.format.dtype_to_descr(rows.dtype)
            shape = (count, *rows.shape[1:])
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(rows.tobytes())
