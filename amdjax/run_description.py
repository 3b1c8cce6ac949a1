"""The description of a run: what `run.json` and its checkpoints say of its training."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from amdjax.checkpoint_files import read_description
from amdjax.config import compute_dtype
from amdjax.data.fingerprint import Fingerprint
from amdjax.errors import UserError
from amdjax.experiment import RunIdentity, total_steps
from amdjax.files import write_atomically

RUN_FILE = "run.json"
OLD_RUN_FILE = "recipe.json"  # of version 0.1
_SECTIONS = ("augment", "data", "losses")  # of the settings; every run has them


class TrainingLength(NamedTuple):
    """The settings that decide how many steps a run has, see `total_steps`."""

    epochs: int
    epoch_fraction: float
    batch_size: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "TrainingLength":
        """Returns the length in the settings of a run.

        Raises:
          KeyError, TypeError, ValueError: if they do not have it.
        """
        return cls(
            int(settings["epochs"]), float(settings["epoch_fraction"]), int(settings["batch_size"])
        )

    def steps(self, num_train: int, max_steps: int = 0) -> int:
        """Returns the number of steps on so many training images, see `total_steps`."""
        steps_per_epoch = num_train // self.batch_size
        return total_steps(self.epochs, self.epoch_fraction, max_steps, steps_per_epoch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunDescription(RunIdentity):
    """The recorded description of a run: its identity, its data, and its settings.

    Attributes:
      teacher: see `RunSpec`.
      data: fingerprint of its data.
      settings: those that its numbers depend on, as JSON values. All runs have a "model",
        "losses", "augment", "data", a "dtype" and what `TrainingLength` reads; a setting that
        amdjax got later may be missing.
      imports: name -> file of the modules that it imported, see `imported_files`.
      code: name -> digest of those modules, see `code_digests`.
      teacher_checkpoints: of the teacher that the config gives, see `GivenTeacher`; () if the run
        learns from no teacher, or from one that is trained in the workdir.
    """

    teacher: str | None
    data: Fingerprint
    settings: dict[str, Any]
    imports: Mapping[str, str] = dataclasses.field(default_factory=dict)
    code: Mapping[str, str] = dataclasses.field(default_factory=dict)
    teacher_checkpoints: tuple[Mapping[str, Any], ...] = ()

    @property
    def model(self) -> str:
        """Name of the network that is trained, see `canonical_model_name`."""
        return self.settings["model"]

    @property
    def losses(self) -> dict[str, dict[str, Any]]:
        """Name -> settings of the losses."""
        return self.settings["losses"]

    @property
    def length(self) -> TrainingLength:
        """The settings that decide how many steps the run has."""
        return TrainingLength.of(self.settings)

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The settings in the form of a config, for functions that read one."""
        return ml_collections.ConfigDict(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the description as JSON values."""
        sweep = {"key": self.sweep_key, "value": self.sweep_value}
        return {
            "method": self.method,
            "seed": self.seed,
            "sweep": sweep if self.sweep_key else None,
            "teacher": self.teacher,
            "data": self.data.to_dict(),
            "imports": dict(self.imports),
            "code": dict(self.code),
            "given_teacher": list(self.teacher_checkpoints),
            "settings": self.settings,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path) -> "RunDescription":
        """Returns the description in JSON values.

        Args:
          values: from `to_dict`.
          folder: of the run, for the message.

        Raises:
          UserError: if the values are not those of a description.
        """
        try:
            sweep = values["sweep"] or {"key": "", "value": None}
            return cls(
                method=str(values["method"]),
                seed=int(values["seed"]),
                teacher=values["teacher"],
                data=Fingerprint.from_dict(values["data"]),
                settings=_checked(values["settings"]),
                sweep_key=str(sweep["key"]),
                sweep_value=with_tuples(sweep["value"]),
                imports=dict(values["imports"]),
                code=dict(values["code"]),
                teacher_checkpoints=tuple(values["given_teacher"]),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(folder, str(error)) from error


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run.

    Raises:
      LookupError, TypeError, ValueError, AttributeError: if settings are missing that all runs
        have, or they are of another type.
    """
    if not isinstance(settings, dict):
        raise TypeError("the settings are not a dictionary")
    for name, section in ((name, settings[name]) for name in _SECTIONS):
        if not isinstance(section, dict):
            raise TypeError(f"the settings of {name} are not a dictionary")
    for name, loss in settings["losses"].items():
        if not isinstance(loss, dict):
            raise TypeError(f"the settings of losses.{name} are not a dictionary")
    for key in ("mean", "std"):
        tuple(map(float, settings["augment"][key]))
    compute_dtype(ml_collections.ConfigDict({"dtype": settings["dtype"]}))
    TrainingLength.of(settings)
    if not isinstance(settings["model"], str):
        raise TypeError("the name of the network is not a text")
    return settings


def write_run(description: RunDescription, folder: Path) -> None:
    """Writes the description of a run to its folder; its checkpoints hold it, too."""
    text = json.dumps(description.to_dict(), indent=2) + "\n"
    write_atomically(folder / RUN_FILE, text)


def read_run(folder: Path) -> RunDescription:
    """Returns the description of a run: that of its checkpoints, which have checksums, if any.

    Raises:
      UserError: if neither its checkpoints nor `run.json` describe it.
    """
    if (description := read_saved_run(folder)) is not None:
        return description
    path = folder / RUN_FILE
    if not path.exists():
        if (folder / OLD_RUN_FILE).exists():
            raise old_workdir(folder)
        raise UserError(
            f"{folder} has no {RUN_FILE}, and no checkpoint that describes its run; copy the whole "
            "folder of the run"
        )
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    return RunDescription.from_dict(values, folder)


def read_saved_run(folder: Path) -> RunDescription | None:
    """Returns the description that a run's checkpoints hold; None if there is none in them.

    Raises:
      UserError: if it is not the description of a run.
    """
    values = read_description(folder)
    return None if values is None else RunDescription.from_dict(values, folder)


def read_label(folder: Path) -> str | None:
    """Returns the label of a run, see `RunSpec`; None if the folder does not describe a run."""
    try:
        return read_run(folder).label
    except UserError:
        return None


def old_workdir(folder: Path) -> UserError:
    """Returns the error of a workdir, or a folder in it, that version 0.1 has written."""
    return UserError(
        f"{folder} was written by amdjax 0.1, whose runs this version cannot resume: finish them "
        "with that version, or choose another --workdir"
    )


def with_tuples(value: Any) -> Any:
    """Turns the lists of JSON back into the tuples of a config."""
    if isinstance(value, dict):
        return {key: with_tuples(entry) for key, entry in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder / RUN_FILE} is damaged ({reason}); remove the folder {folder}")
