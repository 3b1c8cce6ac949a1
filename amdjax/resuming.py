"""Checks of what a command resumes: runs of the same settings, teacher and data."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from amdjax.checkpoint_files import checkpoint_digest, has_checkpoint, newest_checkpoint, step_of
from amdjax.config import default_settings, flatten_settings
from amdjax.data.fingerprint import Fingerprint, check_classes, check_images
from amdjax.errors import UserError, first_names
from amdjax.experiment import RunSpec
from amdjax.files import local_path
from amdjax.imports import code_digests
from amdjax.run_description import (
    OLD_RUN_FILE,
    RUN_FILE,
    RunDescription,
    old_workdir,
    read_run,
)
from amdjax.run_settings import run_settings


def check_resumable(config: ml_collections.ConfigDict, spec: RunSpec, folder: Path) -> None:
    """Makes sure that a run's folder holds nothing that was trained with a different config.

    The settings of `run_settings` are compared: where data and logs are stored, and how far to
    train for now, may change, and so may the path of a given teacher that was moved. A setting that
    the folder does not have counts as its default.

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
    settings = run_settings(config, spec)
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
    if run is None:
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


def changed_code(folders: Iterable[Path]) -> list[str]:
    """Returns a sentence for each module of `config.imports` whose code is not that of a run.

    Args:
      folders: of the runs.
    """
    changed: dict[str, list[str]] = {}
    for folder in folders:
        run = _read_started(folder)
        if run is None:
            continue
        current = code_digests(run.imports)
        for name, digest in run.code.items():
            if current.get(name, digest) != digest:
                changed.setdefault(name, []).append(folder.name)
    return [
        f"the code of {name} has changed since these runs were started: {first_names(runs)}; they "
        "continue with the new code, and steps that are done are not repeated"
        for name, runs in changed.items()
    ]


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
