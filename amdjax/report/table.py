"""The table of a report: its cells and notes."""

import csv
import io
import math
from typing import NamedTuple

from tabulate import tabulate

from amdjax.comparison import baseline_of
from amdjax.methods import EARLY_TEACHER, METHODS, TEACHER
from amdjax.report.figures.style import stat_text
from amdjax.report.open_set import OPEN_SET_SCORES
from amdjax.report.report_data import ReportData
from amdjax.report.summary import McNemar, MethodSummary


class Cell(NamedTuple):
    """A cell; the best value of a column is set in bold."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """A table: headings, rows of as many cells, and notes to print below."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


class _Column(NamedTuple):
    """A column of `MethodSummary.scores`; `sign` is 1 if larger values are better, else -1."""

    heading: str
    digits: int
    factor: float
    sign: int


_COLUMNS = {
    "top1": _Column("top-1\n(%)", 2, 100.0, 1),
    "best": _Column("best\ntop-1 (%)", 2, 100.0, 1),
    "top5": _Column("top-5\n(%)", 2, 100.0, 1),
    "nll": _Column("NLL\n(nats)", 3, 1.0, -1),
    "ece": _Column("ECE\n(%)", 2, 100.0, -1),
    "v_measure": _Column("V-measure", 3, 1.0, 1),
    "homogeneity": _Column("homo-\ngeneity", 3, 1.0, 1),
    "completeness": _Column("complete-\nness", 3, 1.0, 1),
}
# Columns of a report with images of unknown classes.
_OPEN_SET_COLUMNS = {
    f"{score}_{measure}": _Column(f"{words}\n{name} (%)", 2, 100.0, sign)
    for score, name in OPEN_SET_SCORES.items()
    for measure, words, sign in (("auroc", "AUROC", 1), ("fpr95", "FPR95", -1))
}
_EMPTY = Cell("–")
_TEACHERS = {
    TEACHER: "teacher of the students",
    EARLY_TEACHER: "early-stopped teacher of eskd",
}


def create_table(summaries: dict[str, MethodSummary], examples: int, unknown: str = "") -> Table:
    """Returns the table of the methods.

    Args:
      summaries: by method, at least one.
      examples: number of test examples.
      unknown: the images of unknown classes, in words; "": there are none.

    Returns:
      A row for each method. If there are several students, the best value of each column is
      marked, and so are all values equal to it.
    """
    baselines = _baselines(summaries)
    baseline = "baseline" if len(baselines) > 1 else next(iter(baselines), None)
    compared = [f"top-1 − {baseline}\n(points)", "p"] if baselines else []
    if _count_tests(summaries) > 1:
        compared.append("p\n(Holm)")
    headings = ("method", "model", "seeds", _COLUMNS["top1"].heading, *compared)
    columns = _COLUMNS | (_OPEN_SET_COLUMNS if unknown else {})
    if not (has_best := any("best" in summary.scores for summary in summaries.values())):
        columns = {name: column for name, column in columns.items() if name != "best"}
    headings += tuple(column.heading for name, column in columns.items() if name != "top1")
    headings += ("para-\nmeters", "FLOPs", "images/s")
    best = _best(summaries, columns)
    rows = []
    for method, summary in summaries.items():
        first, *others = (
            Cell(
                stat_text(summary.scores[name], column.digits, column.factor),
                not summary.is_teacher and summary.scores[name].mean == best.get(name),
            )
            if name in summary.scores
            else _EMPTY
            for name, column in columns.items()
        )
        cost = (
            Cell(f"{summary.parameters:,}"),
            Cell(_with_prefix(summary.flops)) if summary.flops else _EMPTY,
            Cell(_two_digits(summary.images_per_s)),
        )
        comparison = _comparison(summary, examples)[: len(compared)]
        seeds = Cell(str(len(summary.seeds)))
        rows.append((Cell(method), Cell(summary.model), seeds, first, *comparison, *others, *cost))
    return Table(headings, tuple(rows), _notes(summaries, examples, unknown, bool(best), has_best))


def table_csv(table: Table) -> str:
    """Returns a table as CSV, with its headings in the first row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_one_line(heading) for heading in table.headings)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return text.getvalue()


def table_latex(table: Table) -> str:
    """Returns a table for LaTeX with the package booktabs."""
    rows = [[cell.text for cell in row] for row in table.rows]
    headings = [_one_line(heading) for heading in table.headings]
    align = ("left", "left", *("right",) * (len(headings) - 2))
    text = tabulate(rows, headings, "latex_booktabs", disable_numparse=True, colalign=align)
    return text.replace("±", "$\\pm$").replace("−", "$-$").replace("–", "--") + "\n"


def _one_line(heading: str) -> str:
    return heading.replace("-\n", "").replace("\n", " ")


def _baselines(summaries: dict[str, MethodSummary]) -> set[str]:
    """Returns the methods that others are compared with."""
    return {summary.test.baseline for summary in summaries.values() if summary.test}


def _count_tests(summaries: dict[str, MethodSummary]) -> int:
    """Returns the number of tests that have a p-value."""
    tests = [summary.test for summary in summaries.values() if summary.test]
    return sum(not math.isnan(test.p_value) for test in tests)


def _best(summaries: dict[str, MethodSummary], columns: dict[str, _Column]) -> dict[str, float]:
    """Returns the best mean of each column in which the students differ."""
    students = [summary for summary in summaries.values() if not summary.is_teacher]
    means = {
        name: {summary.scores[name].mean for summary in students if name in summary.scores}
        for name in columns
    }
    return {
        name: max(values, key=lambda x: columns[name].sign * x)
        for name, values in means.items()
        if len(values) > 1
    }


def _comparison(summary: MethodSummary, examples: int) -> tuple[Cell, Cell, Cell]:
    """Returns the difference of the accuracies, p with a letter for the test, and adjusted p."""
    test = summary.test
    if test is None:
        return _EMPTY, _EMPTY, _EMPTY
    if isinstance(test, McNemar):
        difference, letter = (test.gained - test.lost) / examples, "M"
    else:
        difference, letter = test.difference, "t"
    return (
        Cell(f"{100 * difference:+.2f}".replace("-", "−")),
        Cell(f"{_p_value(test.p_value)} ({letter})"),
        Cell(_p_value(test.adjusted_p)),
    )


def _partly_compared(summaries: dict[str, MethodSummary]) -> list[str]:
    """Returns the methods whose test leaves out seeds of theirs or of the baseline."""
    partial = []
    for name, summary in summaries.items():
        if (test := summary.test) is None:
            continue
        is_single = isinstance(test, McNemar)
        compared = 1 if is_single else test.seeds
        if compared < max(len(summary.seeds), len(summaries[test.baseline].seeds)):
            seeds = f"seed {test.seed}" if is_single else f"{test.seeds} seeds"
            partial.append(f"{name} ({seeds})")
    return partial


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def describe_methods(report: ReportData) -> dict[str, str]:
    """Returns a description of each method and teacher."""
    descriptions = {}
    for network in report.networks:
        parts = network.method.split("+")
        if network.is_teacher:
            descriptions[network.method] = _TEACHERS[network.method]
        elif all(part in METHODS for part in parts):
            descriptions[network.method] = "; and ".join(METHODS[part].summary for part in parts)
    return descriptions


def _notes(
    summaries: dict[str, MethodSummary],
    examples: int,
    unknown: str,
    has_bold: bool,
    has_best_epochs: bool,
) -> tuple[str, ...]:
    notes = [
        "Test split, last checkpoint. ECE: 15 bins. V-measure, homogeneity and completeness "
        "compare the predicted with the true classes. FLOPs: of one image's forward pass, as "
        "counted by XLA before optimisation. images/s: of whole batches on the machine that made "
        "this report, measured once for networks of the same definition."
    ]
    best = max(summary.scores["top1"].mean for summary in summaries.values())
    error = 100 * math.sqrt(best * (1 - best) / examples)
    notes.append(
        f"One test image is {100 / examples:.2g} points of top-1; the standard error of top-1 due "
        f"to the choice of the test images is about {error:.2g} points."
    )
    if has_best_epochs:
        notes.append(
            "Best top-1: the highest of all evaluations during the training, which papers often "
            "report; it is chosen on the test split and so too high, the more evaluations the more."
        )
    if unknown:
        notes.append(
            f"AUROC and FPR95 (false-positive rate at a true-positive rate of 95 %): the test "
            f"images, of known classes, against {unknown}, as unknown. Scores: MSP, the maximum "
            "softmax probability; energy, the logsumexp of the logits; angle, the cosine of the "
            "embedding to the nearest class mean of the training images."
        )
    if partial := _partly_compared(summaries):
        notes.append(
            f"Compared only over the seeds that a method shares with its baseline: "
            f"{', '.join(partial)}; such a difference may not be that of the means."
        )
    if any(len(summary.seeds) > 1 for summary in summaries.values()):
        notes.append("With several seeds: mean ± standard deviation (n − 1).")
    if has_bold:
        notes.append(
            "Bold: the best mean of the students, whether it differs significantly or not."
        )
    if len(_baselines(summaries)) > 1:
        default = baseline_of(name for name, summary in summaries.items() if not summary.is_teacher)
        notes.append(
            f"Baseline: kd with the swept value of the method; {default} for the other values of "
            "kd, and where kd was not trained with that value."
        )
    if any(summary.t_test for summary in summaries.values()):
        notes.append(
            "p (t): paired t-test over the seeds of the students, which have one teacher; "
            "undefined if the difference is the same for all seeds."
        )
    if any(summary.mcnemar for summary in summaries.values()):
        notes.append(
            "p (M): McNemar's exact test over the test images, for the difference of these two "
            "networks; it does not cover the variation between seeds."
        )
    if (tests := _count_tests(summaries)) > 1:
        notes.append(
            f"p (Holm): p adjusted for the {tests} tests of this table; without the adjustment, "
            "one test in twenty of methods that do not differ has p < 0.05."
        )
    return tuple(notes)


def _two_digits(value: float) -> str:
    """Rounds a speed to its precision: two significant digits."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _with_prefix(value: float) -> str:
    value = float(f"{value:.3g}")
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.0f}"
