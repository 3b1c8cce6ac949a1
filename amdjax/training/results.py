"""The end of a run: `results.json` and the table."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import ttest_rel

from amdjax.checkpoint import best_step
from amdjax.config import TEACHERS
from amdjax.training.metric_writer import write_atomically

FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a network did.

    Attributes:
      model: its name.
      parameters: how many it has.
      evaluations: step -> values on the test split, at least of the last and of the best step.
    """

    model: str
    parameters: int
    evaluations: dict[int, dict[str, float]]

    def final(self) -> dict[str, float]:
        """Returns the last evaluation, with its step."""
        step = max(self.evaluations)
        return {"step": step, **self.evaluations[step]}

    def best(self) -> dict[str, float]:
        """Returns the most accurate evaluation, with its step: chosen on the test split itself."""
        step = best_step(self.evaluations)
        return {"step": step, **self.evaluations[step]}


# RunSpec or method -> seed -> how it did. The teachers come first.
Outcomes = dict[str, dict[int, Outcome]]
_BASELINE = "kd"
_ROUNDING = 1e-6  # of accuracies in float32, and less than one image of half a million


class Comparison(NamedTuple):
    """Two methods over the same seeds.

    Attributes:
      method: the one.
      baseline: the other.
      difference: mean over the seeds of the one's final accuracy less the other's.
      p_value: of Student's paired t-test, two-sided; NaN where it is not defined.
      seeds: how many.
    """

    method: str
    baseline: str
    difference: float
    p_value: float
    seeds: int


def baseline_of(methods: Iterable[str]) -> str:
    """Returns the method that the others are compared with: KD, or the first without it."""
    methods = list(methods)
    return _BASELINE if _BASELINE in methods else methods[0]


def compare_accuracies(accuracies: dict[str, dict[int, float]]) -> list[Comparison]:
    """Compares each method with KD, or with the first where KD is not among them.

    Args:
      accuracies: method -> seed -> accuracy.

    Returns:
      A comparison, paired by seed, for each other method that shares at least two seeds with it.
    """
    if not accuracies:
        return []
    baseline = baseline_of(accuracies)
    comparisons = []
    for method in accuracies:
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
    return comparisons


def compare(outcomes: Outcomes) -> list[Comparison]:
    """Compares the students' final accuracies; see `compare_accuracies`."""
    return compare_accuracies(
        {
            method: {seed: outcome.final()["accuracy"] for seed, outcome in by_seed.items()}
            for method, by_seed in outcomes.items()
            if method not in TEACHERS
        }
    )


def write(workdir: Path, data: str, outcomes: Outcomes) -> None:
    """Writes `results.json`: for each teacher and method the final and the best evaluation.

    With several seeds the values are means, `std` has the standard deviations (n - 1), `seeds` the
    values of each, and `comparisons` what `compare` returns.

    Args:
      workdir: folder of the run.
      data: name of the data set.
      outcomes: by phase or method, and seed.
    """
    rows = {name: _row(by_seed) for name, by_seed in outcomes.items()}
    teachers = {name: rows.pop(name, None) for name in TEACHERS}
    comparisons = [
        {key: None if value != value else value for key, value in entry._asdict().items()}
        for entry in compare(outcomes)
    ]
    content = {"data": data, **teachers, "methods": rows, "comparisons": comparisons}
    write_atomically(workdir / FILE, json.dumps(content, indent=2) + "\n")


def _row(by_seed: dict[int, Outcome]) -> dict[str, Any]:
    outcomes = list(by_seed.values())
    kinds = {
        "final": [outcome.final() for outcome in outcomes],
        "best": [outcome.best() for outcome in outcomes],
    }
    row: dict[str, Any] = {"model": outcomes[0].model, "parameters": outcomes[0].parameters}
    if len(outcomes) == 1:
        return {**row, **{kind: values[0] for kind, values in kinds.items()}}
    row |= {kind: _over(values, statistics.fmean) for kind, values in kinds.items()}
    row["std"] = {kind: _over(values, statistics.stdev) for kind, values in kinds.items()}
    row["seeds"] = {
        str(seed): {"final": outcome.final(), "best": outcome.best()}
        for seed, outcome in by_seed.items()
    }
    return row


def _over(
    evaluations: list[dict[str, float]], statistic: Callable[[list[float]], float]
) -> dict[str, float]:
    return {key: statistic([values[key] for values in evaluations]) for key in evaluations[0]}


def table(outcomes: Outcomes) -> str:
    """Returns the results as lines of text: one for each network, then the comparisons."""
    header = ("", "model", "parameters", "accuracy %", "NLL", "ECE %", "best accuracy %")
    rows = [header]
    for name, by_seed in outcomes.items():
        runs = list(by_seed.values())
        final, best = [run.final() for run in runs], [run.best() for run in runs]
        rows.append(
            (
                name,
                runs[0].model,
                f"{runs[0].parameters:,}",
                _cell([100 * values["accuracy"] for values in final], 2),
                _cell([values["nll"] for values in final], 4),
                _cell([100 * values["ece"] for values in final], 2),
                _cell([100 * values["accuracy"] for values in best], 2),
            )
        )
    lines = _aligned(rows)
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(
        "accuracy, NLL (nats) and ECE (15 bins): test split, last step; "
        "best: highest of all evaluations on the test split"
    )
    comparisons = compare(outcomes)
    if comparisons:
        lines.append(
            f"mean ± standard deviation over {comparisons[0].seeds} seeds; paired differences of "
            "the accuracy and p-values of the t-test:"
        )
        lines += _aligned(
            [
                (
                    f"  {entry.method} - {entry.baseline}",
                    f"{100 * entry.difference:+.2f} points",
                    "p not defined" if math.isnan(entry.p_value) else f"p = {entry.p_value:.3g}",
                )
                for entry in comparisons
            ]
        )
    return "\n".join(lines)


def _cell(values: list[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of equal length as lines, words (the first two columns) left and numbers right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
