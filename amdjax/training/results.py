"""Results of an experiment: `results.json`, the table, and the header when it starts."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from tabulate import tabulate

from amdjax import __version__
from amdjax.checkpoint import best_step
from amdjax.data import Dataset
from amdjax.experiment import TEACHERS, RunSpec
from amdjax.files import write_atomically
from amdjax.metrics import format_stat
from amdjax.models import create_model, variable_shapes

FILE = "results.json"


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The evaluation history of one run.

    Attributes:
      model: name of the network.
      parameters: number of its parameters.
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


# Teacher or method, with its swept value -> seed -> result; the teachers come first.
Results = dict[str, dict[int, RunResult]]
_BASELINE = "kd"
_ROUNDING = 1e-6  # of accuracies in float32, and less than one image of half a million


class Comparison(NamedTuple):
    """Two methods compared over the same seeds.

    Attributes:
      method: name of the method.
      baseline: name of the method that it is compared with.
      difference: mean over the seeds of the method's final accuracy minus the baseline's.
      p_value: of Student's paired t-test, two-sided; NaN where it is not defined.
      seeds: number of seeds.
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
    from scipy.stats import ttest_rel  # half a second, which the start of training can do without

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


def compare(results: Results) -> list[Comparison]:
    """Compares the students' final accuracies; see `compare_accuracies`."""
    return compare_accuracies(
        {
            method: {seed: result.final()["accuracy"] for seed, result in by_seed.items()}
            for method, by_seed in results.items()
            if method not in TEACHERS
        }
    )


def write(workdir: Path, data: str, results: Results) -> None:
    """Writes `results.json`: for each teacher and method the final and the best evaluation.

    With several seeds the values are means, `std` has the standard deviations (n - 1), `seeds` the
    values of each, and `comparisons` what `compare` returns.

    Args:
      workdir: of the experiment.
      data: name of the data set.
      results: by label and seed.
    """
    rows = {name: _row(by_seed) for name, by_seed in results.items()}
    teachers = {name: rows.pop(name, None) for name in TEACHERS}
    comparisons = [
        {key: None if value != value else value for key, value in entry._asdict().items()}
        for entry in compare(results)
    ]
    content = {"data": data, **teachers, "methods": rows, "comparisons": comparisons}
    write_atomically(workdir / FILE, json.dumps(content, indent=2) + "\n")


def _row(by_seed: dict[int, RunResult]) -> dict[str, Any]:
    results = list(by_seed.values())
    kinds = {
        "final": [result.final() for result in results],
        "best": [result.best() for result in results],
    }
    row: dict[str, Any] = {"model": results[0].model, "parameters": results[0].parameters}
    if len(results) == 1:
        return {**row, **{kind: values[0] for kind, values in kinds.items()}}
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
    return {key: statistic([values[key] for values in evaluations]) for key in evaluations[0]}


def header(
    config: ml_collections.ConfigDict, dataset: Dataset, specs: Sequence[RunSpec], devices: int
) -> str:
    """Returns the lines that a command prints when it starts: what is trained, with what, on what.

    Args:
      config: of the experiment.
      dataset: of the experiment.
      specs: its runs.
      devices: number of devices.
    """
    steps = len(dataset.train) // config.batch_size
    names = {"student": config.student.name}
    if any(spec.teacher for spec in specs):
        names = {"teacher": config.teacher.name, **names}
    networks = ", ".join(
        f"{role} {name} ({_count(name, dataset):,} parameters)" for role, name in names.items()
    )
    return "\n".join(
        (
            f"amdjax {__version__}, JAX {jax.__version__}, {devices} x "
            f"{jax.devices()[0].device_kind}, {config.dtype}",
            f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test "
            f"images in {dataset.num_classes} classes; {config.epochs} epochs of {steps:,} steps, "
            f"batch {config.batch_size}",
            f"{networks}; runs: {', '.join(spec.name for spec in specs)}",
        )
    )


def _count(name: str, dataset: Dataset) -> int:
    shapes = variable_shapes(create_model(name, dataset.num_classes))
    return sum(leaf.size for path, leaf in shapes.items() if path.startswith("params/"))


def table(results: Results) -> str:
    """Returns the results as lines of text: one for each network, then the comparisons."""
    columns = ("", "model", "parameters", "accuracy %", "NLL", "ECE %", "best accuracy %")
    rows = []
    for name, by_seed in results.items():
        runs = list(by_seed.values())
        final, best = [run.final() for run in runs], [run.best() for run in runs]
        rows.append(
            (
                name,
                runs[0].model,
                f"{runs[0].parameters:,}",
                format_stat([100 * values["accuracy"] for values in final], 2),
                format_stat([values["nll"] for values in final], 4),
                format_stat([100 * values["ece"] for values in final], 2),
                format_stat([100 * values["accuracy"] for values in best], 2),
            )
        )
    words_left = ("left", "left", *("right",) * (len(columns) - 2))
    text = tabulate(rows, columns, disable_numparse=True, colalign=words_left)
    text += (
        "\naccuracy, NLL (nats) and ECE (15 bins): test split, last step; "
        "best: highest of all evaluations on the test split"
    )
    if comparisons := compare(results):
        text += (
            f"\nmean ± standard deviation over {comparisons[0].seeds} seeds; paired differences "
            "of the accuracy and p-values of the t-test:\n"
        )
        rows = [
            (
                f"  {entry.method} - {entry.baseline}",
                f"{100 * entry.difference:+.2f} points",
                "p not defined" if math.isnan(entry.p_value) else f"p = {entry.p_value:.3g}",
            )
            for entry in comparisons
        ]
        align = ("left", "right", "right")
        text += tabulate(
            rows, tablefmt="plain", disable_numparse=True, colalign=align, preserve_whitespace=True
        )
    return text
