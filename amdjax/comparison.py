"""Comparison of methods: paired differences, and the conditions that their runs must share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amdjax.checkpoint_files import checkpoint_digest, newest_checkpoint
from amdjax.config import default_settings, disabling_setting, flatten_settings
from amdjax.data.fingerprint import Fingerprint
from amdjax.data.policies import policy_names
from amdjax.losses import LOSSES
from amdjax.methods import EARLY_TEACHER
from amdjax.trained import TrainedModel

_BASELINE = "kd"
_ROUNDING = 1e-6  # of accuracies in float32, and less than one image of half a million
# Settings of a run in which methods may differ and are compared nevertheless: the seed; what
# belongs to a method (its losses, and the second view of the images, which only some read); and how
# often a network is evaluated. Those that do not change a training are not among a run's settings.
_NO_CONDITIONS = ("seed", "losses", "eval_every_epochs", "augment.strong_policy")


class Comparison(NamedTuple):
    """Two methods compared over the same seeds.

    Attributes:
      method: name of the method.
      baseline: name of the method that it is compared with.
      difference: mean over the seeds of the method's final accuracy minus the baseline's.
      p_value: of Student's paired t-test, two-sided; NaN where it is not defined.
      seeds: number of seeds.
      adjusted_p: `holm_adjusted` for all comparisons that are made together.
    """

    method: str
    baseline: str
    difference: float
    p_value: float
    seeds: int
    adjusted_p: float = math.nan


def baseline_of(methods: Iterable[str], method: str = "") -> str:
    """Returns the method that another one is compared with: KD, or the first without it.

    Args:
      methods: all of them, with their swept values.
      method: that is compared. If KD was trained with its swept value, too, that is its baseline,
        unless the method is KD. "": any other.
    """
    methods = list(methods)
    alike = "" if method.startswith(f"{_BASELINE}-") else method
    candidates = (*map(_kd_alike, (alike, "", methods[0])), methods[0])
    return next(name for name in candidates if name in methods)


def _kd_alike(method: str) -> str:
    """Returns KD with the swept value of a method: "kd-kd.weight=2" for "amd_g-kd.weight=2"."""
    _, dash, value = method.partition("-")
    return f"{_BASELINE}{dash}{value}"


def compare_accuracies(accuracies: dict[str, dict[int, float]]) -> list[Comparison]:
    """Compares each method with its baseline, see `baseline_of`.

    Args:
      accuracies: method -> seed -> accuracy.

    Returns:
      A comparison, paired by seed, for each method that shares at least two seeds with another one
      that is its baseline.
    """
    if not accuracies:
        return []
    from scipy.stats import ttest_rel  # half a second, which the start of training can do without

    comparisons = []
    for method in accuracies:
        baseline = baseline_of(accuracies, method)
        seeds = sorted(accuracies[method].keys() & accuracies[baseline].keys())
        if method == baseline or len(seeds) < 2:
            continue
        one, other = ([accuracies[name][seed] for seed in seeds] for name in (method, baseline))
        difference = np.subtract(one, other)
        # Equal differences leave the test nothing to divide by but rounding.
        differ = np.ptp(difference) > _ROUNDING
        p_value = float(ttest_rel(one, other).pvalue) if differ else math.nan
        comparisons.append(
            Comparison(method, baseline, float(difference.mean()), p_value, len(seeds))
        )
    adjusted = holm_adjusted([comparison.p_value for comparison in comparisons])
    return [
        comparison._replace(adjusted_p=p)
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for the number of tests.

    With p sorted, p_(1) <= ... <= p_(m): adjusted p_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)).
    The probability that any true null hypothesis of the m has an adjusted p below alpha is at most
    alpha, whatever the dependence of the tests. Holm, Scandinavian Journal of Statistics 6 (1979).

    Args:
      p_values: of the tests; NaN where a test is not defined, which is then not counted.

    Returns:
      The adjusted p-values in the same order; NaN stays NaN.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted(
        (i for i, p in enumerate(p_values) if not math.isnan(p)), key=p_values.__getitem__
    )
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def compare_conditions(
    conditions: Mapping[str, Mapping[int, Mapping[str, Any] | None]], baseline: str
) -> dict[str, dict[int, str]]:
    """Finds the runs whose accuracies cannot be compared with the baseline's.

    Args:
      conditions: method -> seed -> `conditions_of` a run, and its "steps"; None: not known.
      baseline: the method that the others are compared with.

    Returns:
      method -> seed -> the conditions that differ from those of most seeds of the baseline, in
      words; without the runs where none do.
    """
    defaults = default_settings()
    known = [values for values in conditions.get(baseline, {}).values() if values]
    if not known:
        return {}
    reference = max(  # the first of several that are as common
        known, key=lambda one: sum(not difference_of(one, other, "", defaults) for other in known)
    )
    different: dict[str, dict[int, str]] = {}
    for method, by_seed in conditions.items():
        for seed, values in by_seed.items():
            if difference := values and difference_of(values, reference, baseline, defaults):
                different.setdefault(method, {})[seed] = difference
    return different


def difference_of(
    one: Mapping[str, Any], other: Mapping[str, Any], name: str, defaults: Mapping[str, Any]
) -> str:
    """Returns the conditions that differ in words; "" if none do.

    Args:
      one: conditions of a run.
      other: those of another.
      name: of the other's method, for the words.
      defaults: `default_settings`.
    """

    def compared(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        teacher = _compared_teacher(ours.get("teacher"), theirs.get("teacher"))
        return flatten_settings({**ours, "teacher": teacher})

    one, other = compared(one, other), compared(other, one)
    pairs = {
        key: tuple(values.get(key, defaults.get(key)) for values in (one, other))
        for key in sorted({*one, *other})
    }
    return "; ".join(
        f"{key}: {ours!r}, {name} {theirs!r}"
        for key, (ours, theirs) in pairs.items()
        if ours != theirs
    )


def _compared_teacher(
    teacher: Mapping[str, Any] | None, other: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the entries of a run's "teacher" that are compared with those of another run."""
    if teacher is None or other is None:
        return {}
    both = teacher.keys() & other.keys()
    is_early = "early_fraction" in {*teacher, *other}  # of eskd, whose teacher is stopped early
    if is_early or teacher.get("checkpoint") == other.get("checkpoint") == "":
        return {key: teacher[key] for key in both & {"name", "seed", "early_fraction"}}
    if "digest" in both and teacher["digest"] == other["digest"]:
        return {}  # wherever the checkpoint lies
    return {
        key: value
        for key, value in teacher.items()
        if key != "seed" and (key != "digest" or key in both)
    }


def conditions_of(
    settings: Mapping[str, Any],
    data: Fingerprint,
    teacher_checkpoints: Iterable[Mapping[str, Any]] = (),
    trained: str | None = None,
) -> dict[str, Any]:
    """Returns what the runs of methods that are compared have in common, as JSON values.

    Args:
      settings: of a run, see `RunDescription`.
      data: fingerprint of its data.
      teacher_checkpoints: the checkpoints that it learned from, see `GivenTeacher`.
      trained: `trained_teacher_digest` of its workdir.

    Returns:
      The settings that are not the default and may change what other methods learn, under their
      dotted names; its "images"; and, where it has a teacher, the settings of its "teacher", with a
      "digest" of the checkpoint where that is known.
    """
    teacher = _identify_teacher(settings.get("teacher", {}), teacher_checkpoints, trained)
    flat = flatten_settings({key: settings[key] for key in settings if key != "teacher"})
    whole = {**default_settings(), **flat}
    changed = changed_settings(flat)
    conditions = {key: changed[key] for key in changed if _is_condition(key, whole)}
    conditions["images"] = {**data.num_images, "digest": data.digest}
    if teacher:
        conditions["teacher"] = teacher
    return conditions


def learned_from(student: TrainedModel, teacher: TrainedModel, workdir: Path) -> bool:
    """Returns whether a student learned from a teacher, or from none.

    Args:
      student: that was trained in the workdir.
      teacher: of the name that the student's teacher has, trained there or elsewhere.
      workdir: of the experiment.
    """
    if not (settings := student.settings.get("teacher")):
        return True
    shown = teacher.settings.get("teacher")
    if not shown:  # trained in the workdir
        shown = {"name": teacher.model, "seed": teacher.seed, "checkpoint": ""}
        if teacher.method == EARLY_TEACHER:
            shown["early_fraction"] = teacher.settings["epoch_fraction"]
    trained = trained_teacher_digest(workdir, teacher.name)
    learned = _identify_teacher(settings, student.teacher_checkpoints, trained)
    shown = _identify_teacher(shown, teacher.teacher_checkpoints, trained)
    return _compared_teacher(learned, shown) == _compared_teacher(shown, learned)


def _identify_teacher(
    settings: Mapping[str, Any], given: Iterable[Mapping[str, Any]], trained: str | None
) -> dict[str, Any]:
    """Returns the settings of a run's "teacher", with a "digest" where that is known."""
    teacher = dict(settings)
    if teacher.get("checkpoint"):
        teacher.pop("seed", None)  # of teachers that are trained
    if teacher and (digest := _teacher_digest(teacher, given, trained)):
        teacher["digest"] = digest
    return teacher


def _is_condition(key: str, settings: Mapping[str, Any]) -> bool:
    """Returns whether a setting has an effect, and on others than the method that it belongs to."""
    section, _, name = key.partition(".")
    if key in _NO_CONDITIONS or section in _NO_CONDITIONS:
        return False
    if section == "augment" and "." in name:
        return _is_of_policy(key, settings["augment.policy"])
    return disabling_setting(key, settings) is None


def _is_of_policy(key: str, policy: str) -> bool:
    """Returns whether a setting is that of an augmentation in a policy: "augment.NAME.SETTING"."""
    return any(key.startswith(f"augment.{name}.") for name in policy_names(policy))


def _teacher_digest(
    teacher: Mapping[str, Any], given: Iterable[Mapping[str, Any]], trained: str | None
) -> Any:
    """Returns what tells a teacher from others as a JSON value; None if it is not known."""
    digests = {checkpoint["source"]: checkpoint["digest"] for checkpoint in given}
    if "ensemble" in teacher:
        members = [
            [digests.get(member["checkpoint"]), member["weight"]] for member in teacher["ensemble"]
        ]
        return members if all(digest for digest, _ in members) else None
    if teacher.get("checkpoint") == "":
        return trained
    return digests.get(teacher.get("checkpoint"))


def trained_teacher_digest(workdir: Path, name: str | None) -> str | None:
    """Returns a digest of the newest checkpoint of a teacher that was trained in a workdir.

    Args:
      workdir: of the experiment.
      name: of the teacher's run; None: the result is None, as where it has no checkpoint.
    """
    return checkpoint_digest(newest_checkpoint(workdir / name)) if name else None


def changed_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not the default: one that amdjax gets later changes nothing."""
    defaults = default_settings()
    missing = object()
    return {key: value for key, value in settings.items() if defaults.get(key, missing) != value}


def method_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that belong to the method of a run, by their dotted names."""
    flat = flatten_settings(dict(settings))
    names = {key for key in flat if key.startswith("losses.")}
    losses = [LOSSES[name] for name in settings.get("losses", ()) if name in LOSSES]
    if any(loss.needs_strong_view for loss in losses):
        policy = flat.get("augment.strong_policy", "")
        names |= {key for key in flat if _is_of_policy(key, policy)} | {"augment.strong_policy"}
    return {key: flat[key] for key in names & flat.keys()}
