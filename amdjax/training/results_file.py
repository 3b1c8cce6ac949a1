"""The file `results.json` of a workdir: written, merged with what is there, and read."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from amdjax.comparison import difference_of
from amdjax.config import default_settings
from amdjax.data import Fingerprint
from amdjax.errors import UserError, note
from amdjax.files import set_aside, write_atomically
from amdjax.methods import TEACHERS
from amdjax.training.results import (
    Results,
    RunResult,
    compare,
    find_incomparable,
    without_incomparable,
)

RESULTS_FILE = "results.json"
_DAMAGED = (ValueError, TypeError, LookupError, AttributeError)  # what `_parse_runs` raises
_OF_PROCESS = ("version", "device", "devices", "date", "seconds")  # keys of an origin


def write_results(workdir: Path, data: Fingerprint, results: Results) -> None:
    """Writes `results.json`: for each teacher and method the final and the best evaluation.

    With several seeds the values are means, `std` has the standard deviations (n - 1), `seeds` the
    values of each, and `comparisons` what `compare` returns. `runs` has an entry for each seed with
    its `RunResult.origin`. The runs of earlier commands on the same classes stay; a seed is left
    out, with a note, where the new seeds of its method were trained with other settings, on other
    images or for another number of steps. So that the comparisons are of methods alone, they and
    the means leave out the runs that differ so from those of the other methods, see
    `without_incomparable`. A note says so when such a run is part of the command, and when it is
    left out for the first time.

    Args:
      workdir: of the experiment.
      data: fingerprint of the data set.
      results: of this command, by label and seed.

    Raises:
      UserError: if there is a `results.json` that cannot be read now.
    """
    earlier = _read_runs(workdir / RESULTS_FILE, data)
    merged = _merge(earlier, results)
    before = find_incomparable(earlier)
    for method, by_seed in find_incomparable(merged).items():
        for seed, difference in by_seed.items():
            if seed in results.get(method, {}) or seed not in before.get(method, {}):
                note(f"{method} with seed {seed} is not compared ({difference})")
    rows = {name: _row(by_seed) for name, by_seed in without_incomparable(merged).items()}
    teachers = {name: rows.pop(name, None) for name in TEACHERS}
    comparisons = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in entry._asdict().items()
        }
        for entry in compare(merged)
    ]
    content = {
        "data": data.name,
        **teachers,
        "methods": rows,
        "comparisons": comparisons,
        "fingerprint": data.to_dict(),
        "runs": [
            {"label": label, "seed": seed, **_values(result), "origin": result.origin}
            for label, by_seed in merged.items()
            for seed, result in by_seed.items()
        ],
    }
    write_atomically(workdir / RESULTS_FILE, json.dumps(content, indent=2) + "\n")


def read_evaluations(workdir: Path, label: str) -> dict[int, dict[str, Any]]:
    """Reads what `results.json` has of a method.

    Returns:
      Seed -> its "final" and its "best" evaluation, with the "selection_split" of the best; {} if
      the file cannot be read or does not have the method.
    """
    try:
        runs = _parse_runs(json.loads((workdir / RESULTS_FILE).read_bytes()))
    except (OSError, *_DAMAGED):
        return {}
    return {
        seed: {
            "selection_split": result.selection_split,
            "final": result.final(),
            "best": result.best(),
        }
        for seed, result in runs.get(label, {}).items()
    }


def _merge(earlier: Results, results: Results) -> Results:
    """Returns the results of earlier commands and of this one, the teachers first."""
    merged: Results = {name: {} for name in TEACHERS if name in {*earlier, *results}}
    defaults = default_settings()
    for label in dict.fromkeys((*results, *earlier)):
        new, old = results.get(label, {}), earlier.get(label, {})
        if new:  # a given teacher is not a seed of another one
            old = {seed: result for seed, result in old.items() if result.final()["step"] > 0}
        by_seed = {
            seed: result
            for seed, result in old.items()
            if not new or any(_same_kind(result, current, defaults) for current in new.values())
        }
        lengths = {result.final()["step"] for result in new.values()}
        for seed in sorted(old.keys() - by_seed.keys() - new.keys()):
            step = old[seed].final()["step"]
            how = "with other settings or on other images"
            if step not in lengths:
                how = f"for {step:,} steps, not {' or '.join(map(str, sorted(lengths)))}"
            note(f"{RESULTS_FILE} no longer has {label} with seed {seed}, which was trained {how}")
        for seed, result in new.items():
            # A run that was finished before keeps the date and the device of its training.
            if seed in by_seed and _values(by_seed[seed]) == _values(result):
                origin = dict(result.origin)
                origin |= {k: v for k, v in by_seed[seed].origin.items() if k in _OF_PROCESS}
                result = dataclasses.replace(result, origin=origin)
            by_seed[seed] = result
        merged[label] = dict(sorted(by_seed.items()))
    return merged


def _same_kind(one: RunResult, other: RunResult, defaults: Mapping[str, Any]) -> bool:
    """Returns whether two runs of a method are averaged over their seeds."""
    if one.final()["step"] != other.final()["step"]:
        return False
    ours, theirs = (result.origin.get("conditions") for result in (one, other))
    if ours is None or theirs is None:  # of a teacher that was trained elsewhere
        return one.origin.get("settings") == other.origin.get("settings")
    same_method = one.origin["method"] == other.origin["method"]
    return same_method and not difference_of(ours, theirs, "", defaults)


def _read_runs(path: Path, data: Fingerprint) -> Results:
    """Returns the runs in a results file; {} if it is damaged or of other classes.

    Raises:
      UserError: if it cannot be read now.
    """
    try:
        content = json.loads(path.read_bytes())
        if Fingerprint.from_dict(content["fingerprint"]).class_names != data.class_names:
            return {}
        return _parse_runs(content)
    except FileNotFoundError:
        return {}
    except (IsADirectoryError, *_DAMAGED) as error:
        note(f"{path} is damaged ({error}); it is written again with the runs of this command")
        set_aside(path)
        return {}
    except OSError as error:
        raise UserError(
            f"{path} cannot be read now: {error.strerror}; the runs are finished: repeat the "
            "command when the file can be read, to add their results"
        ) from error


def _parse_runs(content: Any) -> Results:
    """Returns the runs in the content of a results file.

    Raises:
      ValueError, TypeError, LookupError or AttributeError: if it is damaged.
    """
    runs: Results = {}
    for run in content["runs"]:
        evaluations = {
            int(run[kind]["step"]): {
                key: float(value) for key, value in run[kind].items() if key != "step"
            }
            for kind in ("final", "best")
        }
        result = RunResult(
            str(run["model"]), int(run["parameters"]), evaluations, dict(run["origin"])
        )
        if not isinstance(result.origin.get("conditions", {}), dict):
            raise TypeError("the conditions of a run are not a dictionary")
        if not all({"accuracy", "nll", "ece"} <= values.keys() for values in evaluations.values()):
            raise ValueError("an evaluation is incomplete")
        runs.setdefault(str(run["label"]), {})[int(run["seed"])] = result
    return runs


def _values(result: RunResult) -> dict[str, Any]:
    return {
        "model": result.model,
        "parameters": result.parameters,
        "selection_split": result.selection_split,
        "final": result.final(),
        "best": result.best(),
    }


def _row(by_seed: dict[int, RunResult]) -> dict[str, Any]:
    results = list(by_seed.values())
    kinds = {
        "final": [result.final() for result in results],
        "best": [result.best() for result in results],
    }
    if len(results) == 1:
        return _values(results[0])
    first = _values(results[0])
    row = {key: first[key] for key in ("model", "parameters", "selection_split")}
    row |= {kind: _over(values, statistics.fmean) for kind, values in kinds.items()}
    row["std"] = {kind: _over(values, statistics.stdev) for kind, values in kinds.items()}
    row["seeds"] = {
        str(seed): {"final": result.final(), "best": result.best()}
        for seed, result in by_seed.items()
    }
    return row


def _over(
    evaluations: list[dict[str, float]], statistic: Callable[[list[float]], float]
) -> dict[str, float]:
    shared = set.intersection(*map(set, evaluations))
    return {
        key: statistic([values[key] for values in evaluations])
        for key in evaluations[0]
        if key in shared
    }
