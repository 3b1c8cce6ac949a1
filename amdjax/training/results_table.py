"""The results of an experiment as a table on the screen."""

import math

from tabulate import tabulate

from amdjax.comparison import Comparison
from amdjax.metrics import format_stat
from amdjax.training.results import Results, compare, without_incomparable

_CHOICES = {
    "test": "highest of all evaluations on the test split",
    "validation": "test split, the step that is most accurate on the validation split",
}


def format_results(results: Results) -> str:
    """Returns the results as lines of text: one for each network, then the comparisons."""
    columns = ("", "network", "parameters", "accuracy %", "NLL", "ECE %", "best accuracy %")
    rows = []
    shown = without_incomparable(results)
    for name, by_seed in shown.items():
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
    choices = {
        _CHOICES[run.selection_split] for by_seed in results.values() for run in by_seed.values()
    }
    align = ("left", "left", *("right",) * (len(columns) - 2))
    text = tabulate(rows, columns, disable_numparse=True, colalign=align)
    text += (
        "\naccuracy, NLL (nats) and ECE (15 bins): test split, last step; "
        f"best: {'; '.join(sorted(choices))}"
    )
    if comparisons := compare(results):
        counts = {len(by_seed) for by_seed in shown.values()}
        seeds = " or ".join(map(str, sorted(counts - {1})))
        tests = sum(not math.isnan(entry.p_value) for entry in comparisons)
        adjusted = f", and p after Holm's adjustment for {tests} tests" if tests > 1 else ""
        text += (
            f"\nmean ± standard deviation over {seeds} seeds; paired differences "
            f"of the accuracy with p of the t-test{adjusted}:\n"
        )
        rows = [
            (
                f"  {entry.method} - {entry.baseline}",
                f"{100 * entry.difference:+.2f} points{_seeds_of(entry, shown)}",
                "p not defined" if math.isnan(entry.p_value) else f"p = {entry.p_value:.3g}",
                *([] if tests < 2 or math.isnan(entry.p_value) else [f"{entry.adjusted_p:.3g}"]),
            )
            for entry in comparisons
        ]
        align = ("left", "right", "right", "right")[: max(map(len, rows))]
        text += tabulate(
            rows, tablefmt="plain", disable_numparse=True, colalign=align, preserve_whitespace=True
        )
    return text


def _seeds_of(comparison: Comparison, shown: Results) -> str:
    """Returns " (2 seeds)" where one of the methods has other seeds, too; else ""."""
    counts = {len(shown[name]) for name in (comparison.method, comparison.baseline)}
    return "" if counts == {comparison.seeds} else f" ({comparison.seeds} seeds)"
