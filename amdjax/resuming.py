"""Descriptions of runs, and checks of what a command resumes: its settings, teacher and data."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import ml_collections

from amdjax.checkpoint_files import checkpoint_digest, has_checkpoint, newest_checkpoint, step_of
from amdjax.config import default_settings, flat_settings, flatten_settings
from amdjax.data.fingerprint import Fingerprint, check_classes, check_images
from amdjax.data.policies import AUGMENTATIONS, policy_names
from amdjax.errors import UserError
from amdjax.experiment import EARLY_TEACHER, RunSpec, optim_of
from amdjax.files import local_path
from amdjax.imports import imported_files
from amdjax.pretrained import teacher_name, teacher_sources
from amdjax.run_description import RUN_FILE, RunDescription, read_run
from amdjax.teacher_outputs.stored import open_outputs
from amdjax.workdir import OLD_RUN_FILE, old_workdir

# Settings that may change when a run is resumed: its numbers do not depend on them, apart from
# rounding (whether a teacher's outputs are computed once).
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
# Settings of the whole experiment that `RunSpec` replaces with the values of one run.
_PLANNED_SETTINGS = ("seed", "losses", "student", "teacher", "mix", "init_from")


def check_resumable(config: ml_collections.ConfigDict, spec: RunSpec, folder: Path) -> None:
    """Makes sure that a run's folder holds nothing that was trained with a different config.

    All settings are compared except those of `_FREE_SETTINGS`: where data and logs are stored, and
    how far to train for now, may change, and so may the path of a given teacher that was moved. A
    setting that the folder does not have counts as its default.

    Args:
      config: of the experiment.
      spec: of the run.
      folder: of the run.

    Raises:
      UserError: showing the settings that differ.
    """
    if (folder / OLD_RUN_FILE).exists() and not (folder / RUN_FILE).exists():
        raise old_workdir(folder)
    run = _read_started(folder)
    if run is None:
        return
    missing = "(none)"
    settings = _settings(config, spec)
    if "teacher" in settings:
        settings["teacher"] = _with_saved_paths(settings["teacher"], run)
    requested = flatten_settings(settings)
    # A setting that amdjax got after the run was started had its default's effect.
    defaults = default_settings(config.imports)
    added = {key: defaults.get(key, missing) for key in requested}
    saved = {**added, **flatten_settings(run.settings)}
    differing = [
        key for key in sorted(saved) if saved.get(key, missing) != requested.get(key, missing)
    ]
    if differing:
        names = {"model": "teacher.name" if spec.is_teacher else "student.name"}
        changes = "; ".join(
            f"{names.get(key, key)}: saved {saved.get(key, missing)!r}, requested "
            f"{requested.get(key, missing)!r}"
            for key in differing
        )
        remedy = "Choose another --workdir, or remove that folder"
        if "model" not in differing:
            flag, use = f"--config.init_from={folder}", "start from these weights"
            if spec.is_teacher:
                flag, use = f"--config.teacher.checkpoint={folder}", "learn from this teacher"
            remedy += f"; in another workdir {flag} makes students {use}"
        raise UserError(f"{folder} was trained with a different config: {changes}. {remedy}")


def check_given_teacher(folder: Path, checkpoints: Sequence[Mapping[str, Any]]) -> None:
    """Makes sure that a run's folder holds nothing that learned from another checkpoint.

    Args:
      folder: of the run.
      checkpoints: of the teacher that the config gives, see `GivenTeacher`; `check_resumable` has
        accepted their paths.

    Raises:
      UserError: naming a teacher that was trained on, or replaced, since the run was started.
    """
    run = _read_started(folder)
    if run is None or not run.teacher_checkpoints:  # descriptions of earlier versions have none
        return
    for saved, current in itertools.zip_longest(run.teacher_checkpoints, checkpoints):
        if saved is None or (current is not None and _version(saved) == _version(current)):
            continue
        now = f"another one, of step {current['step']}" if current else "none with checksums"
        raise UserError(
            f"{folder} learned from the checkpoint of step {saved['step']} in {saved['source']}, "
            f"which now has {now}: put the former one back, or choose another --workdir, or remove "
            "that folder"
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
    check_classes(run.data, current, str(folder))
    return check_images(run.data, current, str(folder), config.data.accept_changes)


def describe_run(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    data: Fingerprint,
    teacher_checkpoints: Sequence[Mapping[str, Any]] = (),
) -> RunDescription:
    """Returns the description of a run: its identity, its data, and its settings.

    The settings are those that `check_resumable` compares.

    Args:
      config: of the experiment.
      spec: of the run.
      data: fingerprint of its data.
      teacher_checkpoints: the checkpoints of the teacher that the config gives, see `GivenTeacher`.
    """
    return RunDescription(
        method=spec.method,
        seed=spec.seed,
        teacher=spec.teacher,
        data=data,
        settings=_settings(config, spec),
        sweep_key=spec.sweep_key,
        sweep_value=spec.sweep_value,
        imports=imported_files(config.imports),
        teacher_checkpoints=tuple(teacher_checkpoints) if spec.teacher is not None else (),
    )


def _read_started(folder: Path) -> RunDescription | None:
    """Returns the description of a run; None where it has no checkpoint that could be resumed."""
    return read_run(folder) if has_checkpoint(folder) else None


def _with_saved_paths(teacher: dict[str, Any], run: RunDescription) -> dict[str, Any]:
    """Returns the settings of a teacher, with the former paths of checkpoints that were moved.

    Args:
      teacher: `teacher_settings` of the config.
      run: that learned from the checkpoints.
    """
    checkpoints = {checkpoint["source"]: checkpoint for checkpoint in run.teacher_checkpoints}

    def with_saved_path(source: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
        learned = checkpoints.get(saved.get("checkpoint", ""))
        if learned is None or not source.get("checkpoint"):
            return source
        current = newest_checkpoint(local_path(source["checkpoint"], "config.teacher"))
        same = (step_of(current), checkpoint_digest(current)) == _version(learned)
        return {**source, "checkpoint": saved["checkpoint"]} if same else source

    saved = run.settings.get("teacher", {})
    if "ensemble" not in teacher:
        return with_saved_path(teacher, saved)
    members = saved.get("ensemble", ())
    if len(members) != len(teacher["ensemble"]):
        return teacher
    return {"ensemble": [*map(with_saved_path, teacher["ensemble"], members)]}


def _version(checkpoint: Mapping[str, Any]) -> tuple[int, str]:
    """Returns what tells a checkpoint of a teacher from others, wherever it is stored."""
    return checkpoint["step"], checkpoint["digest"]


def _settings(config: ml_collections.ConfigDict, spec: RunSpec) -> dict[str, Any]:
    """Returns the settings that the numbers of a run depend on, as JSON values."""
    settings = flat_settings(config)
    # The settings of augmentations that are not used come and go with `config.imports`.
    policies = (config.augment.policy, config.augment.strong_policy)
    used = {name for policy in policies for name in policy_names(policy)}
    unused = (f"augment.{name}" for name in AUGMENTATIONS if name not in used)
    excluded = (*_FREE_SETTINGS, *_PLANNED_SETTINGS, *unused)
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in excluded)
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
        run["teacher"] = teacher_settings(config)
    if spec.teacher == EARLY_TEACHER:
        run["teacher"]["early_fraction"] = config.teacher.early_fraction
    return json.loads(json.dumps(run))  # as it is read back: tuples become lists


def teacher_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings that say which teacher the students of a config learn from, as JSON."""
    if config.teacher.outputs:
        return {"outputs": open_outputs(config.teacher.outputs).digest}
    if config.teacher.ensemble:
        return {"ensemble": [source._asdict() for source in teacher_sources(config.teacher)]}
    return {
        "seed": config.seed,
        "name": teacher_name(config.teacher),
        "checkpoint": config.teacher.checkpoint,
    }
