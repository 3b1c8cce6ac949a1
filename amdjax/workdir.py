"""The config of a workdir, and the data that its runs were trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import ml_collections

from amdjax.config import PATH_SETTINGS, flatten_settings, validate
from amdjax.configs import default
from amdjax.data import Dataset, load_dataset
from amdjax.errors import UnknownNameError, UserError, note
from amdjax.experiment import plan_runs
from amdjax.files import local_path, write_atomically
from amdjax.imports import import_again, imported_files
from amdjax.run_description import OLD_RUN_FILE, RUN_FILE, old_workdir, with_tuples

_CONFIG_FILE = "config.json"


class DataPaths(NamedTuple):
    """Where the data of a workdir are now; None: where its last command found them.

    Attributes:
      data_dir: replaces `config.data.data_dir`, the folder of the prepared data.
      folder: replaces `config.data.folder`, the images of the data set "folder".
    """

    data_dir: str | None = None
    folder: str | None = None


UNMOVED = DataPaths()


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes down the config of the workdir's last command, for `read_config`."""
    values = {
        **config.to_dict(),
        "imports": imported_files(config.imports),
        "started_in": str(Path.cwd()),
    }
    write_atomically(workdir / _CONFIG_FILE, json.dumps(values, indent=2) + "\n")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Returns the config of the workdir's last command.

    The modules of `config.imports` are imported. Settings that were added to amdjax later have
    their defaults; unknown ones are left out, with a note. In another folder than that in which the
    command was started, relative paths are those in the latter, where they exist there.

    Args:
      workdir: of the experiment.

    Raises:
      UserError: if there is no such folder, it has no config that can be read, or a module cannot
        be imported.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir: {workdir} is not a folder")
    path = workdir / _CONFIG_FILE
    if not path.exists() and (workdir / RUN_FILE).exists():
        run = workdir.absolute()
        raise UserError(
            f"{workdir} is the folder of one run; give --workdir={run.parent}, and to predict or "
            f"export with this run also --method={run.name}"
        )
    if not path.exists():
        raise UserError(f"{workdir} has no {_CONFIG_FILE}, so amdjax.main was never started in it")
    if any(workdir.glob(f"*/{OLD_RUN_FILE}")) and not any(workdir.glob(f"*/{RUN_FILE}")):
        raise old_workdir(workdir)
    try:
        saved = with_tuples(json.loads(path.read_text()))
        imports = saved.pop("imports", {})
        started_in = Path(saved.pop("started_in", "."))
        import_again(imports, workdir)
        config = default.get_config(imports=tuple(imports))
        saved, known = flatten_settings(saved), flatten_settings(config.to_dict())
        unknown = sorted(saved.keys() - known)
        kept = {key: value for key, value in saved.items() if key in known}
        if started_in != Path.cwd():
            paths = kept.keys() & set(PATH_SETTINGS)
            kept |= {key: _from_folder(kept[key], started_in) for key in paths}
        config.update(flax.traverse_util.unflatten_dict(kept, sep="."))
        validate(config)
        plan_runs(config)
    except UnknownNameError as error:
        raise UserError(
            f"{path}: {error}; if a module of yours registers that name, repeat the run's command "
            "with --config.imports=MODULE"
        ) from error
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:  # no file, JSON or config
        raise UserError(
            f"{path} is damaged ({error}); repeat the run's command: what was trained is kept"
        ) from error
    if unknown:
        note(f"{path} has unknown settings: {', '.join(unknown)}")
    return config


def _from_folder(paths: Any, folder: Path) -> Any:
    """Returns a path, or a tuple of paths; where the folder has a relative one, its full path."""
    if isinstance(paths, tuple):
        return tuple(_from_folder(path, folder) for path in paths)
    try:
        return str(folder / paths) if paths and (folder / paths).exists() else paths
    except OSError:  # the folder may not be entered
        return paths


def load_data_again(data: ml_collections.ConfigDict) -> Dataset:
    """Opens a data set that networks were trained on, to evaluate them; images stay on the disk.

    Args:
      data: from `run_data`.

    Raises:
      UserError: see `load_dataset`; if the folder of the images is not there, the error names the
        flag with which the commands take its new path.
    """
    folder = data.folder
    if data.name == "folder" and not (folder and local_path(folder, "config.data.folder").exists()):
        where = f"no longer in {folder}" if folder else "not found"
        raise UserError(f"the images are {where}; give their folder with --data_folder")
    data = data.copy_and_resolve_references()
    data.memory_gib = 0.0  # no image is read twice
    return load_dataset(data)


def run_data(
    data: ml_collections.ConfigDict, settings: Mapping[str, Any], paths: DataPaths = UNMOVED
) -> ml_collections.ConfigDict:
    """Returns the `config.data` of a run: its images, where they are now.

    Args:
      data: `config.data` of the workdir's last command.
      settings: of the run, see `TrainedModel`; {}: those of the command.
      paths: where the data are, if not where that command found them.

    Raises:
      UserError: if `paths` names a folder of images, and the run has another data set.
    """
    copy = data.copy_and_resolve_references()
    saved = with_tuples(settings.get("data", {}))
    copy.update({key: value for key, value in saved.items() if key in copy})
    if paths.folder is not None and copy.name != "folder":
        raise UserError(
            f"--data_folder is for the data set 'folder', and these data are {copy.name}: name the "
            "folder of the prepared data with --data_dir"
        )
    copy.update({key: path for key, path in paths._asdict().items() if path is not None})
    return copy
