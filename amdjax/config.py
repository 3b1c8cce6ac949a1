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
from amdjax.losses import build_objective
from amdjax.methods import METHODS, method_losses, needs_early_teacher
from amdjax.training.metric_writer import write_atomically

TEACHER = "teacher"
EARLY_TEACHER = "teacher_early"
TEACHERS = (TEACHER, EARLY_TEACHER)
RUN_FILE = "recipe.json"
SWEPT = "swept"  # its entry that says which setting a sweep changed
_CONFIG_FILE = "config.json"
_DATA_KEYS = ("name", "folder", "image_size", "random_resized_crop")
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
_BARE_LIST = re.compile(
    r"(--?config\.(?:\S+\.)?(?:methods|seeds|features|terms))=([\w+]+(?:,[\w+]+)*,?)"
)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One training within a run: the teacher's, or a student's with one method.

    Attributes:
      name: the phase's folder in the workdir: a teacher's, or the method's name with the seed
        behind it where that is not the config's.
      method: the student's method, with the swept value behind it; a teacher's name.
      model: name of the network that is trained.
      losses: name -> settings, for `objective`.
      seed: of all random numbers.
      teacher: name of the phase whose network is the teacher; None where no loss reads one.
      share: of the epochs after which the phase ends, its schedules unchanged.
      swept: `config.sweep.key`, where the method has a value of it; else "".
    """

    name: str
    method: str
    model: str
    losses: dict[str, dict[str, Any]]
    seed: int
    teacher: str | None = None
    share: float = 1.0
    swept: str = ""

    @property
    def is_teacher(self) -> bool:
        """Whether it is a teacher that is trained here."""
        return self.method in TEACHERS


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
        raise _of_recipe(error) or UserError(f"command line: {error}") from error


def _of_recipe(error: BaseException | None) -> UserError | None:
    """Returns what a recipe had to say: config flags wrap it, the last time with a traceback."""
    first = None
    while error is not None:
        first = error if isinstance(error, UserError) else first
        error = error.__cause__ or error.__context__
    return first


def _config_files(words: Sequence[str]) -> list[str]:
    files = [match[1] for word in words if (match := re.match(r"--?config=(.+)", word))]
    files += [after for word, after in itertools.pairwise(words) if word in _CONFIG_FLAG]
    return [file.split(":")[0] for file in files]


def _quote_list(word: str) -> str:
    match = _BARE_LIST.fullmatch(word)
    if match is None:
        return word
    parts = (part for part in match[2].split(",") if part)
    return f"{match[1]}={tuple(int(part) if part.isdigit() else part for part in parts)}"


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
    for key in ("methods", "seeds"):
        values = [str(value) for value in config[key]]
        if len(set(values)) < len(values):
            raise UserError(f"config.{key} names one twice: {', '.join(values)}")
    if config.seeds_at_once and len(config.seeds) < 2:
        raise UserError("config.seeds_at_once needs at least two config.seeds, such as 0,1,2")
    for seed in config.seeds:
        if not isinstance(seed, int) or seed < 0:
            raise UserError(f"config.seeds must be whole numbers of at least 0, not {seed!r}")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"config.ema_decay must be at least 0 and below 1, not {config.ema_decay}")
    if not 0 < config.teacher.early_fraction <= 1:
        raise UserError(
            "config.teacher.early_fraction must be above 0 and at most 1, not "
            f"{config.teacher.early_fraction}"
        )


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """Returns the type that `config.dtype` names."""
    return _DTYPES[config.dtype]


def total_steps(epochs: int, share: float, max_steps: int, steps_per_epoch: int) -> int:
    """Returns after how many steps a phase ends.

    Args:
      epochs: `config.epochs`.
      share: of the epochs after which the phase ends.
      max_steps: `config.max_steps`; 0: no limit.
      steps_per_epoch: full batches in the training split.
    """
    total = max(1, round(steps_per_epoch * epochs * share))
    return min(total, max_steps) if max_steps else total


def plan_runs(config: ml_collections.ConfigDict) -> list[RunSpec]:
    """Returns the phases of a run in their order: the teachers', if any must be trained, first.

    Raises:
      UserError: on an unknown method or setting of a loss, or a method that cannot learn from the
        teacher that is given.
    """
    students = [
        _student(config, method, label, losses, seed)
        for method in config.methods
        for label, losses in _swept(config, method)
        for seed in config.seeds or (config.seed,)
    ]
    wanted = {phase.teacher for phase in students}
    if config.teacher.checkpoint:
        if EARLY_TEACHER in wanted:
            raise UserError(
                "eskd trains a teacher that it stops early, but config.teacher.checkpoint gives "
                "one: leave that empty, or give an early checkpoint and take the method kd with "
                "--config.losses.kd.end_fraction=0.25"
            )
        return students
    losses = method_losses("scratch", config.losses)
    shares = {TEACHER: 1.0, EARLY_TEACHER: config.teacher.early_fraction}
    teachers = [
        RunSpec(name, name, config.teacher.name, losses, config.seed, share=share)
        for name, share in shares.items()
        if name in wanted
    ]
    return [*teachers, *students]


def group_seeds(plan: Sequence[RunSpec], seeds_at_once: bool) -> list[tuple[RunSpec, ...]]:
    """Returns the phases in their order, those of one method together if its seeds are at once."""
    if not seeds_at_once:
        return [(phase,) for phase in plan]
    by_method = itertools.groupby(plan, key=lambda phase: phase.method)
    return [tuple(group) for _, group in by_method]


def _swept(config: ml_collections.ConfigDict, method: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns (label, losses) of a method for each value of `config.sweep`, if that concerns it."""
    losses = method_losses(method, config.losses)
    key = config.sweep.key
    if not key:
        return [(method, losses)]
    known = {f"losses.{name}.{hyper}" for name, loss in config.losses.items() for hyper in loss}
    if key not in known:
        raise unknown_name("config.sweep.key", key, known)
    if not config.sweep.choices:
        raise UserError(f"config.sweep.choices is empty; give the values of {key}")
    _, name, hyper = key.split(".")
    if name not in losses:
        return [(method, losses)]
    swept = []
    for value in config.sweep.choices:
        changed = config.losses.copy_and_resolve_references()
        try:
            changed[name][hyper] = value
        except TypeError as error:
            raise UserError(f"config.sweep.choices: {value!r} is no value of {key}") from error
        words = "+".join(value) if isinstance(value, tuple) else value
        swept.append((f"{method}-{hyper}={words}", method_losses(method, changed)))
    if len(swept) > 1 and swept[0][1] == swept[1][1]:
        raise UserError(f"config.sweep.key: the method {method} sets {key} itself")
    return swept


def _student(
    config: ml_collections.ConfigDict, method: str, label: str, losses: dict[str, Any], seed: int
) -> RunSpec:
    objective = build_objective(losses)
    teacher = None
    if objective.needs_teacher:
        teacher = EARLY_TEACHER if needs_early_teacher(method) else TEACHER
    if objective.needs_hard_labels and config.mix.name != "none":
        raise UserError(
            f"{method}: {' and '.join(objective.needs_hard_labels)} compares whole classes and "
            f"cannot use the mixed labels of config.mix.name={config.mix.name!r}; set it to none "
            "(pairs are defined for mixed images with config.losses.amc.pair_labels=predicted)"
        )
    name = label if seed == config.seed else f"{label}-seed{seed}"
    swept = config.sweep.key if label != method else ""
    return RunSpec(name, label, config.student.name, losses, seed, teacher, swept=swept)


def check_resumable(config: ml_collections.ConfigDict, phase: RunSpec, folder: Path) -> None:
    """Makes sure that a phase's folder holds nothing made with other settings.

    Compared is all that the phase's numbers depend on; where data and logs lie, and how far to
    train for now (`max_steps`), may change.

    Raises:
      UserError: showing the settings that differ.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return
    try:
        before = _flatten(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); remove the folder {folder}") from error
    now = _flatten(_recipe(config, phase))
    before.pop(SWEPT, None)
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


def write_run_spec(config: ml_collections.ConfigDict, phase: RunSpec, folder: Path) -> None:
    """Writes down what `check_resumable` will compare, and which of it was swept."""
    recipe = _recipe(config, phase) | ({SWEPT: phase.swept} if phase.swept else {})
    write_atomically(folder / RUN_FILE, json.dumps(recipe, indent=2) + "\n")


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes down the config of the workdir's last run, for `read_config`."""
    write_atomically(workdir / _CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Returns the config of the workdir's last run.

    Settings that are newer than it have their defaults.

    Raises:
      UserError: if there is no such folder, or nothing that can be read was run in it.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir: {workdir} is no folder")
    path = workdir / _CONFIG_FILE
    if not path.exists():
        raise UserError(
            f"{workdir} holds no {_CONFIG_FILE}, so no run of amdjax.main was started in it; if it "
            "is an older one, repeat its command: what was trained is kept"
        )
    from configs import default  # not above, since it imports the losses, and they this

    config = default.get_config()
    try:
        config.update(_with_tuples(json.loads(path.read_text())))
    except (OSError, ValueError, TypeError, AttributeError) as error:  # no file, JSON or config
        raise UserError(
            f"{path} is damaged ({error}); repeat the run's command: what was trained is kept"
        ) from error
    return config


def _with_tuples(value: Any) -> Any:
    """Turns the lists of JSON back into the tuples that configs have."""
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _recipe(config: ml_collections.ConfigDict, phase: RunSpec) -> dict[str, Any]:
    keys = (
        *("dtype", "batch_size", "epochs", "eval_every_epochs", "sync_batch_norm"),
        "ema_decay",
    )
    recipe = {
        **{key: config[key] for key in keys},
        "seed": phase.seed,
        "share": phase.share,
        "model": phase.model,
        "losses": phase.losses,
        "optim": config.optim.to_dict(),
        "augment": config.augment.to_dict(),
        "data": {key: config.data[key] for key in _DATA_KEYS},
    }
    if not phase.is_teacher:
        mixes = config.mix.name != "none"
        recipe["mix"] = config.mix.to_dict() if mixes else {"name": config.mix.name}
    if phase.teacher is not None:
        keys = ("name", "checkpoint")
        recipe["teacher"] = {"seed": config.seed, **{key: config.teacher[key] for key in keys}}
    if phase.teacher == EARLY_TEACHER:
        recipe["teacher"]["early_fraction"] = config.teacher.early_fraction
    return json.loads(json.dumps(recipe))  # tuples become lists, as they are in the file


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
