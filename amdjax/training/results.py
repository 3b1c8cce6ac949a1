"""Results of runs: their evaluations, where they come from, and which can be compared."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from amdjax.checkpoint import best_step
from amdjax.comparison import (
    Comparison,
    baseline_of,
    changed_settings,
    compare_accuracies,
    compare_conditions,
    conditions_of,
    method_settings,
)
from amdjax.config import flatten_settings
from amdjax.data import Fingerprint
from amdjax.methods import TEACHERS
from amdjax.run_description import RunDescription

VALIDATION_ACCURACY = "validation_accuracy"  # key of an evaluation: that on the validation split


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The evaluation history of one run.

    Attributes:
      model: name of the network.
      parameters: `count_prediction_parameters`.
      evaluations: step -> values on the test split, at least of the last and of the best step;
        with `VALIDATION_ACCURACY` where the best step is chosen on a validation split.
      origin: when, where and with what it was trained, from `origin_of`.
    """

    model: str
    parameters: int
    evaluations: dict[int, dict[str, float]]
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)

    def final(self) -> dict[str, float]:
        """Returns the last evaluation, with its step."""
        step = max(self.evaluations)
        return {"step": step, **self.evaluations[step]}

    @property
    def selection_split(self) -> str:
        """The split on which the best step is chosen, "validation" or "test"."""
        is_held_out = all(VALIDATION_ACCURACY in values for values in self.evaluations.values())
        return "validation" if is_held_out else "test"

    def best(self) -> dict[str, float]:
        """Returns the evaluation of the step that is most accurate on `selection_split`."""
        key = VALIDATION_ACCURACY if self.selection_split == "validation" else "accuracy"
        step = best_step(self.evaluations, key)
        return {"step": step, **self.evaluations[step]}


# Teacher or method, with its swept value -> seed -> result; the teachers come first.
Results = dict[str, dict[int, RunResult]]


def compare(results: Results) -> list[Comparison]:
    """Compares the students' final accuracies, see `compare_accuracies`.

    Runs that `find_incomparable` names are left out.
    """
    incomparable = find_incomparable(results)
    return compare_accuracies(
        {
            method: {
                seed: result.final()["accuracy"]
                for seed, result in by_seed.items()
                if seed not in incomparable.get(method, {})
            }
            for method, by_seed in results.items()
            if method not in TEACHERS
        }
    )


def find_incomparable(results: Results) -> dict[str, dict[int, str]]:
    """Returns `compare_conditions` of the students."""

    def of(result: RunResult) -> dict[str, Any] | None:
        conditions = result.origin.get("conditions")
        return conditions and {**conditions, "steps": result.final()["step"]}

    conditions = {
        method: {seed: of(result) for seed, result in by_seed.items()}
        for method, by_seed in results.items()
        if method not in TEACHERS
    }
    return compare_conditions(conditions, baseline_of(conditions)) if conditions else {}


def without_incomparable(results: Results) -> Results:
    """Leaves out the runs of `find_incomparable`, unless their method has no others."""
    incomparable = find_incomparable(results)
    return {
        method: {
            seed: result
            for seed, result in by_seed.items()
            if seed not in incomparable.get(method, {})
        }
        or by_seed
        for method, by_seed in results.items()
    }


def origin_of(
    description: RunDescription | None,
    process: Mapping[str, Any],
    seconds: float | None = None,
    trained: str | None = None,
) -> dict[str, Any]:
    """Returns when, where and with what a run was trained, as JSON values.

    Args:
      description: of the run; None for a network that was trained elsewhere.
      process: that trained it, from `read_origin`; {} if unknown.
      seconds: of its training steps; None if unknown.
      trained: `trained_teacher_digest` of its workdir.

    Returns:
      Where known, version, device, number of devices and date in UTC; seconds; a digest of the data
      and of the settings that are not the default, but for the seed; a digest of those that belong
      to its "method"; and the "conditions" that are compared, see `conditions_of`.
    """
    origin = {**process, "seconds": seconds}
    if description is None:
        return {**origin, "settings": _digest({})}
    settings, data = description.settings, description.data
    return {
        **origin,
        "settings": _digest(settings, data),
        "method": _digest(method_settings(settings)),
        "conditions": conditions_of(settings, data, description.teacher_checkpoints, trained),
    }


def _digest(settings: Mapping[str, Any], data: Fingerprint | None = None) -> str:
    changed = changed_settings(flatten_settings({**settings, "seed": None}))
    fingerprint = None if data is None else data.to_dict()
    content = json.dumps({"settings": changed, "data": fingerprint}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
