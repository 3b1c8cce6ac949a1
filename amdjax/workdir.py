"""The files of a workdir: what a run writes down, what it may resume, and its trained networks."""

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import ml_collections
import numpy as np

from amdjax.checkpoint import has_checkpoint, read_description, read_network
from amdjax.config import compute_dtype, given_teacher, validate
from amdjax.configs import default
from amdjax.data.fingerprint import Fingerprint, check_classes, check_images
from amdjax.data.policies import AUGMENTATIONS
from amdjax.errors import UserError
from amdjax.experiment import (
    EARLY_TEACHER,
    TEACHER,
    TEACHERS,
    RunSpec,
    label_of,
    optim_of,
    plan_runs,
    total_steps,
)
from amdjax.files import local_path, write_atomically
from amdjax.imports import import_again, imported_files
from amdjax.models import canonical_model_name, create_model
from amdjax.predictor import (
    Predictor,
    create_predictor,
    forward,
    trained_predicting_losses,
)
from amdjax.pretrained import (
    check_variables,
    count_classes,
    create_teacher,
    load_given_teacher,
    teacher_name,
    teacher_sources,
)
from amdjax.teacher_outputs.stored import open_outputs

RUN_FILE = "run.json"
_OLD_RUN_FILE = "recipe.json"  # of version 0.1
_CONFIG_FILE = "config.json"
# Settings that may change when a run is resumed, since no number of its training depends on them.
_FREE_SETTINGS = (
    "imports",
    "methods",
    "seeds",
    "seeds_at_once",
    "sweep",
    "max_steps",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "profile",
    "trackers",
    "data.data_dir",
    "data.folder",  # the fingerprint of the data is compared instead
    "data.unlabeled",
    "data.unlabeled_only",
    "data.unknown",
    "data.accept_changes",
    "data.memory_gib",
    "data.device_gib",
    "teacher.cached",
)
# Settings of the whole experiment in whose place `RunSpec` has what holds for one run.
_PLANNED_SETTINGS = ("seed", "losses", "student", "teacher", "mix", "init_from")


def check_resumable(config: ml_collections.ConfigDict, spec: RunSpec, folder: Path) -> None:
    """Makes sure that a run's folder holds nothing that was trained with a different config.

    Compared are all settings but those of `_FREE_SETTINGS`: where data and logs lie, and how far
    to train for now, may change. A setting that the folder does not have counts as its default.

    Args:
      config: of the experiment.
      spec: of the run.
      folder: of the run.

    Raises:
      UserError: showing the settings that differ.
    """
    if (folder / _OLD_RUN_FILE).exists() and not (folder / RUN_FILE).exists():
        raise UserError(_old_workdir(folder))
    run = _read_started(folder)
    if run is None:
        return
    missing = "(none)"
    requested = flatten_settings(_settings(config, spec))
    # A setting that amdjax got after the run was started had its default's effect.
    defaults = default_settings(config.imports)
    added = {key: defaults.get(key, missing) for key in requested}
    saved = {**added, **flatten_settings(run["settings"])}
    differing = [
        f"{key}: saved {saved.get(key, missing)!r}, requested {requested.get(key, missing)!r}"
        for key in sorted(saved)
        if saved.get(key, missing) != requested.get(key, missing)
    ]
    if differing:
        use = f"--config.init_from={folder} to start from these weights"
        if spec.is_teacher:
            use = (
                f"--config.teacher.checkpoint={folder} to learn from this teacher and "
                "--config.init_from=RUN to start from a student's weights"
            )
        raise UserError(
            f"{folder} was trained with a different config: {'; '.join(differing)}. Choose another "
            f"--workdir, there with {use}, or remove that folder"
        )


def check_given_teacher(folder: Path, checkpoints: Sequence[Mapping[str, Any]]) -> None:
    """Makes sure that a run's folder holds nothing that learned from another checkpoint.

    Args:
      folder: of the run.
      checkpoints: of the teacher that the config gives, see `GivenTeacher`.

    Raises:
      UserError: naming a teacher that was trained on since the run was started.
    """
    run = _read_started(folder)
    if run is None:
        return
    # Descriptions of earlier versions have no checkpoints of the teacher.
    saved_checkpoints = {one["source"]: one for one in run.get("given_teacher", ())}
    for current in checkpoints:
        saved = saved_checkpoints.get(current["source"], current)
        if saved != current:
            raise UserError(
                f"{folder} learned from the checkpoint of step {saved['step']} in "
                f"{saved['source']}, which now has another one, of step {current['step']}: put the "
                "former one back, or choose another --workdir, or remove that folder"
            )


def check_data(config: ml_collections.ConfigDict, folder: Path, current: Fingerprint) -> str | None:
    """Makes sure that a run's folder holds nothing that was trained on other data.

    Args:
      config: of the experiment.
      folder: of the run.
      current: fingerprint of the data.

    Returns:
      A sentence about images that have changed, where the config accepts that; else None.

    Raises:
      UserError: naming the classes or the numbers of images that differ.
    """
    run = _read_started(folder)
    if run is None:
        return None
    saved = _saved_fingerprint(run, folder)
    check_classes(saved, current, str(folder))
    return check_images(saved, current, str(folder), config.data.accept_changes)


def describe_run(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    data: Fingerprint,
    given_teacher: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Returns who a run is, its data, and the settings that `check_resumable` compares, as JSON.

    Args:
      config: of the experiment.
      spec: of the run.
      data: fingerprint of its data.
      given_teacher: the checkpoints of the teacher that the config gives, see `GivenTeacher`.
    """
    return {
        "method": spec.method,
        "seed": spec.seed,
        "sweep": {"key": spec.sweep_key, "value": spec.sweep_value} if spec.sweep_key else None,
        "teacher": spec.teacher,
        "data": data.to_dict(),
        "imports": imported_files(config.imports),
        "given_teacher": list(given_teacher) if spec.teacher is not None else [],
        "settings": _settings(config, spec),
    }


def write_run_spec(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    folder: Path,
    data: Fingerprint,
    given_teacher: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes the description of a run to its folder; its checkpoints hold it, too."""
    run = describe_run(config, spec, data, given_teacher)
    write_atomically(folder / RUN_FILE, json.dumps(run, indent=2) + "\n")


def read_identity(folder: Path) -> tuple[str, Fingerprint]:
    """Returns the name of a run's network, and the fingerprint of the data it was trained on.

    Raises:
      UserError: if the folder does not describe a run.
    """
    run = read_run(folder)
    return run["settings"]["model"], _saved_fingerprint(run, folder)


def write_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes down the config of the workdir's last command, for `read_config`."""
    values = {**config.to_dict(), "imports": imported_files(config.imports)}
    write_atomically(workdir / _CONFIG_FILE, json.dumps(values, indent=2) + "\n")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Returns the config of the workdir's last command.

    The modules of `config.imports` are imported. Settings that were added to amdjax later have
    their defaults; unknown ones are left out, with a note.

    Raises:
      UserError: if there is no such folder, it has no config that can be read, or a module cannot
        be imported.
    """
    if not workdir.is_dir():
        raise UserError(f"--workdir: {workdir} is not a folder")
    path = workdir / _CONFIG_FILE
    if not path.exists():
        raise UserError(f"{workdir} has no {_CONFIG_FILE}, so amdjax.main was never started in it")
    if any(workdir.glob(f"*/{_OLD_RUN_FILE}")) and not any(workdir.glob(f"*/{RUN_FILE}")):
        raise UserError(_old_workdir(workdir))
    try:
        saved = _with_tuples(json.loads(path.read_text()))
        imports = saved.pop("imports", {})
        import_again(imports, workdir)
        config = default.get_config(imports=tuple(imports))
        saved, known = flatten_settings(saved), flatten_settings(config.to_dict())
        unknown = sorted(saved.keys() - known)
        kept = {key: value for key, value in saved.items() if key in known}
        config.update(flax.traverse_util.unflatten_dict(kept, sep="."))
        validate(config)
        plan_runs(config)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:  # no file, JSON or config
        raise UserError(
            f"{path} is damaged ({error}); repeat the run's command: what was trained is kept"
        ) from error
    if unknown:
        print(f"note: {path} has unknown settings: {', '.join(unknown)}", file=sys.stderr)
    return config


def _old_workdir(folder: Path) -> str:
    return (
        f"{folder} was written by amdjax 0.1, whose runs this version cannot resume: finish them "
        "with that version, or choose another --workdir"
    )


def read_run(folder: Path) -> dict[str, Any]:
    """Returns the description of a run: that of its checkpoints, which have checksums, if any.

    Raises:
      UserError: if neither its checkpoints nor `run.json` describe it.
    """
    if (run := read_description(folder)) is not None:
        return _with_canonical_names(run)
    try:
        run = json.loads((folder / RUN_FILE).read_bytes())
        if not isinstance(run["settings"], dict):
            raise TypeError("the settings are not a dictionary")
        Fingerprint.from_dict(run["data"])
        return _with_canonical_names(run)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _damaged(folder, str(error)) from error


def _with_canonical_names(run: dict[str, Any]) -> dict[str, Any]:
    """Returns a description in which networks have the names of the registry.

    Those of earlier versions have the names as the command had them, such as "WRN-16-1".
    """
    settings, canonical = dict(run["settings"]), canonical_model_name
    if isinstance(name := settings.get("model"), str):
        settings["model"] = canonical(name)
    if teacher := settings.get("teacher"):
        teacher = dict(teacher)
        if "name" in teacher:
            teacher["name"] = canonical(teacher["name"])
        if "ensemble" in teacher:
            members = teacher["ensemble"]
            teacher["ensemble"] = [{**one, "model": canonical(one["model"])} for one in members]
        settings["teacher"] = teacher
    return {**run, "settings": settings}


def _read_started(folder: Path) -> dict[str, Any] | None:
    """Returns the description of a run; None where it has no checkpoint that could be resumed."""
    return read_run(folder) if has_checkpoint(folder) else None


def _damaged(folder: Path, reason: str) -> UserError:
    return UserError(f"{folder / RUN_FILE} is damaged ({reason}); remove the folder {folder}")


def _saved_sweep(run: dict[str, Any]) -> tuple[str, Any]:
    """Returns the key and the value of a run's sweep; ("", None) without one."""
    sweep = run["sweep"]
    return (sweep["key"], _with_tuples(sweep["value"])) if sweep else ("", None)


def _saved_fingerprint(run: dict[str, Any], folder: Path) -> Fingerprint:
    try:
        return Fingerprint.from_dict(run["data"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, repr(error)) from error


def _settings(config: ml_collections.ConfigDict, spec: RunSpec) -> dict[str, Any]:
    settings = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    # The settings of augmentations that are not used come and go with `config.imports`.
    policies = f"{config.augment.policy}+{config.augment.strong_policy}".split("+")
    used = {name.strip() for name in policies}
    unused = (f"augment.{name}" for name in AUGMENTATIONS if name not in used)
    planned = (*_FREE_SETTINGS, *_PLANNED_SETTINGS, *unused)
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in planned)
    }
    run = flax.traverse_util.unflatten_dict(kept, sep=".") | {
        "seed": spec.seed,
        "model": spec.model,
        "losses": spec.losses,
        "epoch_fraction": spec.epoch_fraction,
        "optim": optim_of(config, spec).to_dict(),
    }
    if not spec.is_teacher:
        run["init_from"] = config.init_from
        mixes = config.mix.name != "none"
        run["mix"] = config.mix.to_dict() if mixes else {"name": config.mix.name}
    if spec.teacher is not None:
        run["teacher"] = _teacher_settings(config)
    if spec.teacher == EARLY_TEACHER:
        run["teacher"]["early_fraction"] = config.teacher.early_fraction
    return _to_json(run)


def _teacher_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings that say which teacher the students of a config learn from."""
    if config.teacher.outputs:
        return {"outputs": open_outputs(config.teacher.outputs).digest}
    if config.teacher.ensemble:
        return {"ensemble": [one._asdict() for one in teacher_sources(config.teacher)]}
    return {
        "seed": config.seed,
        "name": teacher_name(config.teacher),
        "checkpoint": config.teacher.checkpoint,
    }


def default_settings(imports: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the default of every setting by its dotted name, as JSON values.

    Args:
      imports: modules whose losses and augmentations have settings, too.
    """
    return flatten_settings(_to_json(default.get_config(imports=imports).to_dict()))


def flatten_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run by their dotted names."""
    return flax.traverse_util.flatten_dict(settings, sep=".", keep_empty_nodes=True)


def run_data(
    data: ml_collections.ConfigDict, settings: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the `config.data` of a run: its images, where the workdir's last command found them.

    Args:
      data: `config.data` of that command.
      settings: of the run, see `TrainedModel`.
    """
    copy = data.copy_and_resolve_references()
    saved = _with_tuples(settings.get("data", {}))
    copy.update({key: value for key, value in saved.items() if key in copy})
    return copy


def _to_json(value: Any) -> Any:
    """Returns a value as it is read back from JSON: tuples become lists."""
    return json.loads(json.dumps(value))


def _with_tuples(value: Any) -> Any:
    """Turns the lists of JSON back into the tuples of a config."""
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


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
class TrainedModel:
    """A trained network.

    Attributes:
      name: the run's folder in the workdir; "teacher" for one that was trained elsewhere.
      method: a student's method, or "teacher" or "teacher_early".
      seed: of its training.
      model: name of the architecture.
      teacher: name of the teacher that it is compared with, also where it was trained without one.
      data: fingerprint of the data that it was trained on; None for a teacher that was trained
        elsewhere.
      predictor: module, preprocessing and prediction rule.
      variables: {"params": ..., "batch_stats": ...} of float32 arrays, and "losses" where the
        variables of a loss are part of the prediction, see `Predictor.bind`.
      step: the training step of the variables; 0 for a teacher that was trained elsewhere.
      length: of its training; None for a teacher that was trained elsewhere.
      sweep_key: the swept setting, "losses.am.margin"; "" without a sweep.
      sweep_value: its value for this network.
      settings: of its training, as JSON values; of a teacher that was trained elsewhere only
        "teacher", which the settings of students that learn from it have, too.
      imports: modules that its training imported.
      given_teacher: the checkpoints that it learned from, see `GivenTeacher`; () if it was trained
        without a teacher, or with one that was trained in the workdir. Of a teacher that was
        trained elsewhere: those that it was read from.
    """

    name: str
    method: str
    seed: int
    model: str
    teacher: str
    data: Fingerprint | None
    predictor: Predictor
    variables: dict
    step: int
    length: TrainingLength | None
    sweep_key: str = ""
    sweep_value: Any = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    imports: tuple[str, ...] = ()
    given_teacher: tuple[dict[str, Any], ...] = ()

    def planned_steps(self, max_steps: int) -> int:
        """Returns the steps of its training; 0 for a teacher that was trained elsewhere.

        Args:
          max_steps: `config.max_steps`.
        """
        if self.length is None or self.data is None:
            return 0
        return self.length.steps(self.data.num_images["train"], max_steps)

    @property
    def tight_crop(self) -> bool:
        """Whether the input is 224/256 of an image's centre square."""
        return self.settings.get("data", {}).get("random_resized_crop", False)

    @property
    def is_teacher(self) -> bool:
        """Whether the network is a teacher."""
        return self.method in TEACHERS

    @property
    def label(self) -> str:
        """The method with its swept value, which all seeds of it share."""
        return label_of(self.method, self.sweep_key, self.sweep_value)

    def logits(self, images: np.ndarray) -> jax.Array:
        """Returns the logits, float32 [B,C], of images, uint8 RGB [B,H,W,3]."""
        return forward(self.predictor, self.variables, images)


def read_label(folder: Path) -> str | None:
    """Returns the label of a run, see `RunSpec`; None if the folder does not describe a run."""
    try:
        run = read_run(folder)
        return label_of(run["method"], *_saved_sweep(run))
    except (UserError, KeyError, TypeError):
        return None


def load_run(folder: Path | str) -> TrainedModel:
    """Reads a trained network.

    Args:
      folder: of a run in a workdir, such as "runs/cifar10-a/amd_gl".

    Returns:
      The network of the newest checkpoint; `network.logits(images)` is its prediction.

    Raises:
      UserError: if there is no checkpoint, or its files are damaged.
    """
    return restore(local_path(str(folder), "folder"))


def restore(folder: Path, num_classes: int | None = None) -> TrainedModel:
    """Reads the newest checkpoint of a run.

    Args:
      folder: the run's, with `run.json` and `checkpoints/`.
      num_classes: that the network must have; None: any number.

    Returns:
      The network as the run evaluates it: in its dtype, with its moving averages where there are
      any, and with the prediction rule of its loss.

    Raises:
      UserError: if the run was not started, its files are damaged or of other classes, or a module
        of its `config.imports` cannot be imported.
    """
    if not has_checkpoint(folder):
        if (folder / _OLD_RUN_FILE).exists():
            raise UserError(_old_workdir(folder))
        raise UserError(f"{folder} has no checkpoint yet; repeat the run's command to train it")
    run = read_run(folder)
    import_again(run.get("imports", {}), folder)
    data = _saved_fingerprint(run, folder)
    losses = run["settings"].get("losses", {})
    step, variables = read_network(folder, trained_predicting_losses(losses))
    classes = num_classes or count_classes(variables) or len(data.class_names)
    try:
        settings = run["settings"]
        saved = ml_collections.ConfigDict(settings)
        sweep_key, sweep_value = _saved_sweep(run)
        fields = {
            "method": run["method"],
            "seed": int(run["seed"]),
            "model": settings["model"],
            "teacher": run["teacher"] or TEACHER,
            "data": data,
            "predictor": create_predictor(
                create_model(settings["model"], classes, compute_dtype(saved)),
                saved.augment,
                settings["losses"],
            ),
            "length": TrainingLength.of(settings),
            "sweep_key": sweep_key,
            "sweep_value": sweep_value,
            "settings": settings,
            "imports": tuple(run.get("imports", ())),
            "given_teacher": tuple(run.get("given_teacher", ())),
        }
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, repr(error)) from error
    network = {name: tree for name, tree in variables.items() if name != "losses"}
    check_variables(network, fields["model"], classes, folder, data.image_shape)
    return TrainedModel(name=folder.name, variables=jax.device_put(variables), step=step, **fields)


def restore_imported_teacher(config: ml_collections.ConfigDict, data: Fingerprint) -> TrainedModel:
    """Reads the teacher of `config.teacher.checkpoint` or `config.teacher.ensemble`.

    Args:
      config: of the experiment.
      data: fingerprint of the data set.

    Raises:
      UserError: see `load_given_teacher`.
    """
    teacher, num_classes = load_given_teacher(config.teacher, data), len(data.class_names)
    return TrainedModel(
        name=TEACHER,
        method=TEACHER,
        seed=config.seed,
        model=teacher_name(config.teacher),
        teacher=TEACHER,
        data=None,
        predictor=create_predictor(
            create_teacher(config.teacher, num_classes, compute_dtype(config)), config.augment, {}
        ),
        variables=jax.device_put(teacher.variables),
        step=0,
        length=None,
        settings={"teacher": _to_json(_teacher_settings(config))},
        given_teacher=teacher.checkpoints,
    )


def restore_all(
    workdir: Path, config: ml_collections.ConfigDict, data: Fingerprint
) -> tuple[list[TrainedModel], list[str]]:
    """Reads every network of a workdir.

    Args:
      workdir: of an experiment.
      config: of that experiment.
      data: fingerprint of the data set; networks of other classes are skipped.

    Returns:
      (networks, notes): the teachers first, then the students in the order of the config, then
      those of earlier commands; and a sentence for each network that is missing, cannot be read or
      is not finished.
    """
    networks, notes = [], []

    def attempt(read: Callable[[], TrainedModel], name: str) -> None:
        try:
            network = read()
            if network.data is not None:
                check_classes(network.data, data, name)
        except UserError as error:
            notes.append(f"{name}: {error}")
            return
        same = (network.label, network.seed)
        twin = next((one.name for one in networks if (one.label, one.seed) == same), None)
        if twin is None:
            networks.append(network)
        else:
            notes.append(f"{name}: skipped: {twin} has the same method and seed")

    if config.teacher.checkpoint:
        attempt(lambda: restore_imported_teacher(config, data), TEACHER)
    if config.teacher.ensemble:
        notes.append(f"{TEACHER}: skipped: the report shows single networks, not ensembles")
    for name in run_names(workdir, config):
        attempt(lambda name=name: restore(workdir / name), name)
    notes += [
        f"{network.name}: trained for {network.step} of {total} steps so far"
        for network in networks
        if network.step < (total := network.planned_steps(config.max_steps))
    ]
    return networks, notes


def run_names(workdir: Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of the runs that a config plans and of those that are in the workdir.

    The teachers are first; then come the config's students in its order, then others by name.
    """
    planned = [spec.name for spec in plan_runs(config)]
    folders = list(workdir.iterdir())
    found = {path.name for path in folders if (path / RUN_FILE).exists() or has_checkpoint(path)}
    if given_teacher(config):
        # A teacher of an earlier command is not the config's.
        found.discard(TEACHER)
    names = [*planned, *sorted(found.difference(planned))]
    return sorted(names, key=lambda name: (*TEACHERS, name).index(name))
