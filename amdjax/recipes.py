"""The packaged recipes: `--config=cifar10.py:b` works from any folder."""

from pathlib import Path

RECIPES = Path(__file__).parent / "configs"


def find_recipe(text: str) -> str:
    """Return the value of `--config` with the name of a packaged recipe replaced by its path.

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
