"""The runs of an experiment: the teacher's, then one for each method, sweep value and seed."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import ml_collections

from amdjax.config import given_teacher_setting
from amdjax.errors import UserError, unknown_name
from amdjax.losses import LOSSES, Objective, build_objective
from amdjax.losses.spec import WEIGHT_SETTINGS
from amdjax.methods import (
    EARLY_TEACHER,
    TEACHER,
    TEACHERS,
    canonical_method_name,
    method_losses,
    needs_early_teacher,
)
from amdjax.models import canonical_model_name
from amdjax.ranges import check_loss_ranges


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Identity of a run: method, seed and swept value.

    Attributes:
      method: a student's method, or one of `TEACHERS`.
      seed: of all random numbers.
      sweep_key: `config.sweep.key`, "losses.am.margin", where it concerns the method; else "".
      sweep_value: the value of that setting.
    """

    method: str
    seed: int
    sweep_key: str = ""
    sweep_value: Any = None

    @property
    def is_teacher(self) -> bool:
        """Whether the network is a teacher."""
        return self.method in TEACHERS

    @property
    def label(self) -> str:
        """The method with its swept value, which all seeds of it share."""
        return label_of(self.method, self.sweep_key, self.sweep_value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec(RunIdentity):
    """One training of an experiment: the teacher's, or a student's with one method.

    Attributes:
      name: the run's folder in the workdir: its label, followed by the seed where that is not
        `config.seed`.
      model: name of the network that is trained, see `canonical_model_name`.
      losses: name -> settings, for `build_objective`.
      teacher: that the losses read: `TEACHER`, which the config may give in place of a run of that
        name, or `EARLY_TEACHER`; None where no loss reads one.
      epoch_fraction: fraction of `config.epochs` to train; the schedules still span all epochs.
    """

    name: str
    model: str
    losses: dict[str, dict[str, Any]]
    teacher: str | None = None
    epoch_fraction: float = 1.0


def label_of(method: str, sweep_key: str, sweep_value: Any) -> str:
    """Returns a method with its swept value, "amd_g-am.weight=1000.0"; without one the method."""
    if not sweep_key:
        return method
    if isinstance(sweep_value, list | tuple):
        sweep_value = "+".join(map(str, sweep_value))
    return f"{method}-{sweep_key.removeprefix('losses.')}={sweep_value}"


def plan_runs(config: ml_collections.ConfigDict) -> list[RunSpec]:
    """Returns the runs of an experiment in their order: first the teachers that must be trained.

    Raises:
      UserError: on an unknown method or setting of a loss, a value of one that is out of range, a
        sweep without effect, a method that cannot learn from the given teacher, or losses that read
        labels where the config mixes images or trains on images without labels.
    """
    students = [
        _student(config, method, losses, seed, *swept)
        for method in map(canonical_method_name, config.methods)
        for losses, *swept in _sweep(config, method)
        for seed in config.seeds or (config.seed,)
    ]
    wanted = {spec.teacher for spec in students}
    if given := given_teacher_setting(config):
        if EARLY_TEACHER in wanted:
            raise UserError(
                f"eskd trains a teacher that is stopped early, but config.teacher.{given} gives "
                "one: leave that empty, or give that of an early teacher and use the method kd "
                "with --config.losses.kd.end_fraction=0.25 --config.losses.ce.end_fraction=0.25 "
                "--config.losses.ce.end_weight=1"
            )
        return students
    losses = method_losses("scratch", config.losses)
    # The schedule of cross-entropy is that of the students.
    losses["ce"] |= {key: LOSSES["ce"].defaults()[key] for key in WEIGHT_SETTINGS}
    fractions = {TEACHER: 1.0, EARLY_TEACHER: config.teacher.early_fraction}
    teachers = [
        RunSpec(
            name=name,
            method=name,
            model=canonical_model_name(config.teacher.name),
            losses=losses,
            seed=config.seed,
            epoch_fraction=fraction,
        )
        for name, fraction in fractions.items()
        if name in wanted
    ]
    return [*teachers, *students]


def group_seeds(runs: Sequence[RunSpec], seeds_at_once: bool) -> list[tuple[RunSpec, ...]]:
    """Returns the runs in their order, with the seeds of a method together if so configured."""
    if not seeds_at_once:
        return [(spec,) for spec in runs]
    by_label = itertools.groupby(runs, key=lambda spec: spec.label)
    return [tuple(group) for _, group in by_label]


def total_steps(epochs: int, epoch_fraction: float, max_steps: int, steps_per_epoch: int) -> int:
    """Returns the number of steps of a run.

    Args:
      epochs: `config.epochs`.
      epoch_fraction: fraction of the epochs to train.
      max_steps: `config.max_steps`; 0: no limit.
      steps_per_epoch: full batches in the training split.
    """
    total = max(1, round(steps_per_epoch * epochs * epoch_fraction))
    return min(total, max_steps) if max_steps else total


def optim_of(config: ml_collections.ConfigDict, spec: RunSpec) -> ml_collections.ConfigDict:
    """Returns `config.optim` for a run: a teacher has the learning rate of `config.teacher`."""
    optim = config.optim.copy_and_resolve_references()
    if spec.is_teacher and config.teacher.learning_rate:
        optim.learning_rate = config.teacher.learning_rate
    return optim


def sees_unlabeled(config: ml_collections.ConfigDict, spec: RunSpec) -> bool:
    """Returns whether images without labels are among the training images of a run."""
    return bool(config.data.unlabeled) and not spec.is_teacher


def _sweep(
    config: ml_collections.ConfigDict, method: str
) -> list[tuple[dict[str, dict[str, Any]], str, Any]]:
    """Returns (losses, key, value) of a method for each value of the sweep that concerns it."""
    losses = method_losses(method, config.losses)
    key = config.sweep.key
    if not key:
        return [(losses, "", None)]
    known = {f"losses.{name}.{setting}" for name, loss in config.losses.items() for setting in loss}
    if key not in known:
        if not key.startswith("losses."):
            raise UserError(
                f"config.sweep.key={key!r} is not a setting of a loss, losses.NAME.SETTING, and "
                "others cannot be swept: use a command and a --workdir for each of its values"
            )
        raise unknown_name("config.sweep.key", key, known)
    if not config.sweep.choices:
        raise UserError(f"config.sweep.choices is empty; give the values of {key}")
    _, name, setting = key.split(".")
    if name not in losses:
        return [(losses, "", None)]
    swept: list[tuple[dict[str, dict[str, Any]], str, Any]] = []
    for value in config.sweep.choices:
        changed = config.losses.copy_and_resolve_references()
        try:
            changed[name][setting] = value
        except TypeError as error:
            raise UserError(f"config.sweep.choices: {value!r} is not a value of {key}") from error
        losses = method_losses(method, changed)
        if losses[name][setting] != changed[name][setting]:
            raise UserError(
                f"config.sweep.key: the method {method} sets {key} itself, to "
                f"{losses[name][setting]!r}"
            )
        if any(losses == others for others, *_ in swept):
            raise UserError(f"config.sweep.choices has {value!r} twice")
        swept.append((losses, key, value))
    return swept


def _student(
    config: ml_collections.ConfigDict,
    method: str,
    losses: dict[str, dict[str, Any]],
    seed: int,
    sweep_key: str,
    sweep_value: Any,
) -> RunSpec:
    label = label_of(method, sweep_key, sweep_value)
    try:
        objective = build_objective(losses)
        check_loss_ranges(losses)
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    teacher = None
    if objective.needs_teacher:
        teacher = EARLY_TEACHER if needs_early_teacher(method) else TEACHER
    if (unmixable := objective.unmixable_losses) and config.mix.name != "none":
        hints = [
            f", or config.losses.{name}.pair_labels to predicted"
            for name in unmixable
            if "pair_labels" in losses[name]
        ]
        raise UserError(
            f"{method}: {' and '.join(unmixable)} cannot be computed for the mixed images of "
            f"config.mix.name={config.mix.name!r}; set it to none{''.join(hints)}"
        )
    if config.data.unlabeled:
        _check_unlabeled(config, method, objective)
    return RunSpec(
        name=label if seed == config.seed else f"{label}-seed{seed}",
        method=method,
        model=canonical_model_name(config.student.name),
        losses=losses,
        seed=seed,
        teacher=teacher,
        sweep_key=sweep_key,
        sweep_value=sweep_value,
    )


def _check_unlabeled(config: ml_collections.ConfigDict, method: str, objective: Objective) -> None:
    """Makes sure that a method can learn from images without labels."""
    if len(objective.label_losses) == len(objective.terms):
        raise UserError(
            f"{method}: every loss reads labels, so the images of config.data.unlabeled teach "
            "nothing; choose methods with losses of the teacher's outputs, such as kd and at"
        )
    if objective.label_comparing_losses:
        raise UserError(
            f"{method}: {' and '.join(objective.label_comparing_losses)} compares images by their "
            "labels, which those of config.data.unlabeled do not have; choose another method"
        )
    if objective.label_losses and config.mix.name != "none":
        raise UserError(
            f"{method}: {' and '.join(objective.label_losses)} reads labels, which cannot be mixed "
            f"with images of config.data.unlabeled; set config.mix.name={config.mix.name!r} to "
            "none, or the weight of the loss to 0"
        )
