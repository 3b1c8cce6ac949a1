"""What a user's config means: its errors, the phases it asks for, what a workdir may continue."""

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_collections
from absl import flags
from ml_collections.config_flags import config_flags

from amdjax.errors import UserError, unknown_name
from amdjax.logs import write_atomically
from amdjax.losses import objective
from amdjax.methods import METHODS, method_losses

TEACHER = "teacher"
_RECIPE_FILE = "recipe.json"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_AT_LEAST = {
    "seed": 0,
    "batch_size": 1,
    "epochs": 1,
    "max_steps": 0,
    "eval_every_epochs": 1,
    "log_every_steps": 1,
    "checkpoint_every_steps": 1,
}
_CONFIG_FLAG = ("--config", "-config")
# Lists of words that may be given bare: --config.methods=kd,amd_gl
_BARE_LIST = re.compile(r"(--?config\.(?:\S+\.)?(?:methods|features|terms))=([\w+]+(?:,[\w+]+)*,?)")


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training within a run: the teacher's, or a student's with one method.

    Attributes:
      name: "teacher" or the method's name; the phase's folder in the workdir.
      model: name of the network that is trained.
      losses: name -> settings, for `objective`.
      needs_teacher: whether a loss reads the teacher's outputs.
    """

    name: str
    model: str
    losses: dict[str, dict[str, Any]]
    needs_teacher: bool


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line, for `absl.app.run`.

    Args:
      argv: the command line, the program's name first.

    Returns:
      What is left of it.

    Raises:
      UserError: on anything that is wrong in it; an unknown key of the config is answered with
        the near ones.
    """
    words = [_quote_list(word) for word in argv]
    for file in _config_files(words):
        if not Path(file).is_file():
            raise UserError(f"--config: {file} is not there")
    sys.argv[:] = words  # where config flags look for the overrides
    try:
        return flags.FLAGS(words)
    except (AttributeError, KeyError) as error:
        raise _unknown_key(words, error) from error
    except (flags.Error, config_flags.UnsupportedOperationError, TypeError, ValueError) as error:
        raise UserError(f"command line: {error}") from error


def _config_files(words: Sequence[str]) -> list[str]:
    files = [match[1] for word in words if (match := re.match(r"--?config=(.+)", word))]
    files += [after for word, after in itertools.pairwise(words) if word in _CONFIG_FLAG]
    return [file.split(":")[0] for file in files]


def _quote_list(word: str) -> str:
    match = _BARE_LIST.fullmatch(word)
    if match is None:
        return word
    return f"{match[1]}={tuple(part for part in match[2].split(',') if part)}"


def _unknown_key(words: Sequence[str], error: Exception) -> UserError:
    files = _config_files(words)
    given = [match[1] for word in words if (match := re.match(r"--?config\.([^=]+)", word))]
    if not files or not given:
        return UserError(f"command line: {error}")
    config = config_flags.ConfigFileFlagParser("config").parse(files[-1])
    known = _flatten(config.to_dict())
    groups = {key.rsplit(".", depth)[0] for key in known for depth in range(key.count(".") + 1)}
    for key in given:
        if key not in groups:
            return unknown_name("config key", key, known)
    return UserError(f"command line: {error}")


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks what can be checked of a config by itself.

    Raises:
      UserError: naming the first value that cannot be.
    """
    for key, least in _AT_LEAST.items():
        if config[key] < least:
            raise UserError(f"config.{key} must be at least {least}, not {config[key]}")
    if config.dtype not in _DTYPES:
        raise unknown_name("dtype", config.dtype, _DTYPES)
    if not config.methods:
        raise UserError(f"config.methods is empty; known methods: {', '.join(METHODS)}")
    if len(set(config.methods)) < len(config.methods):
        raise UserError(f"config.methods names a method twice: {', '.join(config.methods)}")


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """Returns the type that `config.dtype` names."""
    return _DTYPES[config.dtype]


def phases(config: ml_collections.ConfigDict) -> list[Phase]:
    """Returns the phases of a run in their order: the teacher's, if it must be trained, first.

    Raises:
      UserError: on an unknown method or setting of a loss.
    """
    students = []
    for method in config.methods:
        losses = method_losses(method, config.losses)
        needs_teacher = objective(losses).needs_teacher
        students.append(Phase(method, config.student.name, losses, needs_teacher))
    if any(phase.needs_teacher for phase in students) and not config.teacher.checkpoint:
        losses = method_losses("scratch", config.losses)
        return [Phase(TEACHER, config.teacher.name, losses, needs_teacher=False), *students]
    return students


def check_recipe(config: ml_collections.ConfigDict, phase: Phase, folder: Path) -> None:
    """Makes sure that a phase's folder holds nothing made with other settings.

    Compared is all that the phase's numbers depend on; where data and logs lie, and how far to
    train for now (`max_steps`), may change.

    Raises:
      UserError: showing the settings that differ.
    """
    path = folder / _RECIPE_FILE
    if not path.exists():
        return
    try:
        before = _flatten(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); remove the folder {folder}") from error
    now = _flatten(_recipe(config, phase))
    missing = "(not there)"
    differing = [
        f"{key}: {before.get(key, missing)!r} there, {now.get(key, missing)!r} now"
        for key in sorted({*before, *now})
        if before.get(key, missing) != now.get(key, missing)
    ]
    if differing:
        raise UserError(
            f"{folder} holds a run with other settings; {'; '.join(differing)}. "
            "Choose another --workdir, or remove that folder"
        )


def write_recipe(config: ml_collections.ConfigDict, phase: Phase, folder: Path) -> None:
    """Writes down what `check_recipe` will compare."""
    write_atomically(folder / _RECIPE_FILE, json.dumps(_recipe(config, phase), indent=2) + "\n")


def _recipe(config: ml_collections.ConfigDict, phase: Phase) -> dict[str, Any]:
    keys = ("seed", "dtype", "batch_size", "epochs", "eval_every_epochs", "sync_batch_norm")
    recipe = {
        **{key: config[key] for key in keys},
        "model": phase.model,
        "losses": phase.losses,
        "optim": config.optim.to_dict(),
        "augment": config.augment.to_dict(),
        "data": {key: config.data[key] for key in ("name", "folder", "image_size")},
    }
    if phase.needs_teacher:
        recipe["teacher"] = config.teacher.to_dict()
    return json.loads(json.dumps(recipe))  # tuples become lists, as they are in the file


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
