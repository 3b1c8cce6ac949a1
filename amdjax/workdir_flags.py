"""Flags of the commands that read a workdir: report, predict and export."""

from pathlib import Path

from absl import flags

from amdjax.errors import UserError
from amdjax.files import local_path
from amdjax.workdir import DataPaths

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the command amdjax.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data; default: that of the run.")
_DATA_FOLDER = flags.DEFINE_string(
    "data_folder", None, "Images of the data set 'folder', where they were moved."
)


def workdir() -> Path:
    """Returns the folder of `--workdir`.

    Raises:
      UserError: if the flag is missing.
    """
    if _WORKDIR.value is None:
        raise UserError("--workdir=DIR, the workdir of the command amdjax, is missing")
    return local_path(_WORKDIR.value, "--workdir")


def data_paths() -> DataPaths:
    """Returns where the command line says that the data are.

    Raises:
      UserError: if `--data_folder` is not a folder.
    """
    folder = _DATA_FOLDER.value
    if folder is not None and not (folder and local_path(folder, "--data_folder").is_dir()):
        raise UserError(f"--data_folder: {folder!r} is not a folder")
    return DataPaths(_DATA_DIR.value, folder)
