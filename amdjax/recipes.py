"""The packaged recipes: `--config=cifar10.py:b` works from any folder."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from amdjax.errors import UserError, unknown_name

RECIPES = Path(__file__).parent / "configs"


def find_recipe(text: str) -> str:
    """Returns the value of `--config` with the name of a packaged recipe replaced by its path.

    A file that exists takes precedence, so that a recipe of the same name in the current folder
    is used.

    Args:
      text: a path, or the name of a recipe with or without ".py"; ":SETUP" may follow either.

    Returns:
      The text with a path before the set-up; the text itself if there is no such recipe.
    """
    name, colon, setup = text.partition(":")
    if Path(name).is_file() or Path(name).name != name or name.startswith("_"):
        return text
    path = RECIPES / f"{name.removesuffix('.py')}.py"
    return f"{path}{colon}{setup}" if path.is_file() else text


def check_recipe(file: str) -> None:
    """Makes sure that a config file exists.

    Args:
      file: from `find_recipe`, without the set-up.

    Raises:
      UserError: if it does not; with the most similar recipes for a name without a folder.
    """
    if Path(file).is_file():
        return
    name = Path(file).name.removesuffix(".py")
    if file and Path(file).name == file:
        raise unknown_name("file or recipe", name, _names())
    if name in _names():
        raise UserError(
            f"--config: {file} does not exist; packaged recipes need no folder: --config={name}.py"
        )
    if not file:
        raise UserError("--config: give a recipe or a file, such as --config=digits.py")
    raise UserError(f"--config: {file} does not exist")


def list_recipes() -> Iterator[tuple[str, str]]:
    """Yields each packaged recipe with the first line of its docstring and its set-ups."""
    for name in _names():
        module = importlib.import_module(f"amdjax.configs.{name}")
        summary = (module.__doc__ or "").splitlines()[0]
        setups = ", ".join(getattr(module, "SETUPS", ()))
        yield f"{name}.py", f"{summary} Set-ups: {setups}" if setups else summary


def _names() -> list[str]:
    """Returns the names of the packaged recipes; the defaults are not one."""
    return sorted(file.stem for file in RECIPES.glob("[!_]*.py") if file.stem != "default")
