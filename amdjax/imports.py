"""Modules outside the package that register entries when they are imported: `config.imports`."""

import contextlib
import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from amdjax.data.policies import default_augmentations
from amdjax.errors import UserError, note, one_line
from amdjax.losses import default_losses
from amdjax.registry import registering_files

_IMPORTLIB = Path(importlib.__file__)
# name -> (spec, digest of the code) of a module as it was imported: a reload makes another spec.
_IMPORTED: dict[str, tuple[Any, str | None]] = {}


def search_folders(folders: Iterable[Path]) -> None:
    """Makes Python find modules in the current folder and in others, after all installed ones.

    A console script, unlike `python -m`, does not search the current folder.
    """
    for folder in map(str, (Path.cwd(), *folders)):
        if folder not in sys.path:
            sys.path.append(folder)


def import_modules(names: Sequence[str], subject: str = "config.imports") -> None:
    """Imports modules, which register losses, methods, networks and the like.

    Args:
      names: dotted names, as in an import statement; the current folder is searched, too.
      subject: what names the modules, for the message.

    Raises:
      UserError: if a module does not exist or cannot be imported, with the file and the line.
    """
    if isinstance(names, str):
        names = (names,)
    search_folders(())
    importlib.invalidate_caches()  # a file may have been written since Python looked
    for name in names:
        if not _is_name(name):
            raise UserError(
                f"{subject} has {name!r}; modules are named as in an import statement, such as "
                "mylab.losses for mylab/losses.py"
            )
        try:
            importlib.import_module(name)
        except Exception as error:  # a module may raise anything
            raise UserError(f"{subject}: {_reason(name, error)}") from error
        spec = sys.modules[name].__spec__
        if name not in _IMPORTED or _IMPORTED[name][0] is not spec:
            _IMPORTED[name] = (spec, _read_digest(name))


def apply_imports(config: ml_collections.ConfigDict) -> None:
    """Imports the modules of a config, and adds the settings of what they register.

    Args:
      config: whose `losses` and `augment` get the defaults of registered losses and augmentations
        that they do not have.

    Raises:
      UserError: see `import_modules`.
    """
    import_modules(config.imports)
    defaults = {"losses": default_losses(), "augment": default_augmentations()}
    for section, settings in defaults.items():
        missing = {name: value for name, value in settings.items() if name not in config[section]}
        if missing:
            with config.unlocked():
                config[section].update(missing)


def unrecorded(config: ml_collections.ConfigDict) -> list[str]:
    """Returns a sentence if files have registered entries, but the config imports no module."""
    files = registering_files()
    if config.imports or not files:
        return []
    return [
        f"{', '.join(files)} registers losses, methods or the like, which the report, prediction "
        "and export will not know: name its module in config.imports"
    ]


def imported_files(names: Iterable[str]) -> dict[str, str]:
    """Returns name -> file of imported modules, for `import_again`; "" where there is no file."""
    return {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in names}


def code_digests(names: Iterable[str]) -> dict[str, str]:
    """Returns name -> digest of the code of modules, as they were imported.

    Args:
      names: of the modules; those that are not imported, or have no file, are left out.
    """
    digests = {name: _IMPORTED[name][1] for name in names if name in _IMPORTED}
    return {name: digest for name, digest in digests.items() if digest}


def outdated(names: Iterable[str]) -> list[str]:
    """Returns a sentence for each module whose file has changed since it was imported.

    Args:
      names: of imported modules.
    """
    return [
        f"{file} has changed since this process imported it, and the former code is used; restart "
        f"the process, or the kernel of a notebook, or call importlib.reload({name})"
        for name, file in imported_files(names).items()
        if code_digests((name,)).get(name) not in (None, _read_digest(name))
    ]


def _read_digest(name: str) -> str | None:
    """Returns the digest of the file of an imported module; None if it cannot be read."""
    with contextlib.suppress(OSError):
        code = Path(imported_files((name,))[name]).read_bytes()
        return hashlib.sha256(code).hexdigest()[:16]
    return None


def import_again(files: Mapping[str, str], folder: Path) -> None:
    """Imports the modules that were in effect when a run was trained.

    Where Python does not find a module, the folder is searched in which it was then.

    Args:
      files: from `imported_files`.
      folder: the run's or its workdir, for the message.

    Raises:
      UserError: see `import_modules`; with the file of then, if the module is not found.
    """
    search_folders(_root(name, Path(file)) for name, file in files.items() if file)
    for name, file in files.items():
        subject = f"{folder} was trained with config.imports={name}"
        try:
            import_modules((name,), subject)
        except UserError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError) or not file:
                raise
            raise UserError(
                f"{error} (it was {file}); start the command where it can be imported, or add its "
                "folder to PYTHONPATH"
            ) from error
        current = imported_files((name,))[name]
        if current != file and Path(file).exists():
            note(f"{subject} from {file}; {current} is used now")


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or name.endswith(".py"):
        return False
    return all(map(str.isidentifier, name.split(".")))


def _root(name: str, file: Path) -> Path:
    """Returns the folder that Python must search to find a module."""
    depth = name.count(".") + (file.stem == "__init__")
    return file.parents[min(depth, len(file.parents) - 1)]


def _reason(name: str, error: Exception) -> str:
    """Returns what is wrong with a module, with the file and the line in it."""
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f"there is no module {error.name!r} in {Path.cwd()} or on Python's path"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename) for frame in frames]
    inside = [file for file in files if file not in (_IMPORTLIB, Path(__file__))]
    inside = [file for file in inside if not str(file).startswith("<")]  # importlib's frozen part
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    message = one_line(message)
    if not inside:
        return f"{name}: {message}"
    # The first is the module's file. The deepest line beside it is where the user can change it.
    frame = [f for f in frames if Path(f.filename).is_relative_to(inside[0].parent)][-1]
    return f"{frame.filename}, line {frame.lineno}: {message}"
