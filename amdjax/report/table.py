"""The table of a report: what stands in its cells."""

import math
from typing import NamedTuple

from amdjax.config import EARLY_TEACHER, TEACHER
from amdjax.methods import METHODS
from amdjax.report.figures.style import as_text
from amdjax.report.report_data import ReportData
from amdjax.report.summary import Row


class Cell(NamedTuple):
    """A cell; the best of its column is set in bold."""

    text: str
    best: bool = False


class Table(NamedTuple):
    """A table: headings, lines of as many cells, and notes to stand below."""

    headings: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


class _Column(NamedTuple):
    """A column of `Row.scores`: `sign` times the mean is the larger, the better."""

    heading: str
    digits: int
    factor: float
    sign: int


_COLUMNS = {
    "top1": _Column("top-1\n(%)", 2, 100.0, 1),
    "top5": _Column("top-5\n(%)", 2, 100.0, 1),
    "nll": _Column("NLL\n(nats)", 3, 1.0, -1),
    "ece": _Column("ECE\n(%)", 2, 100.0, -1),
    "v_measure": _Column("V-measure", 3, 1.0, 1),
    "homogeneity": _Column("homo-\ngeneity", 3, 1.0, 1),
    "completeness": _Column("complete-\nness", 3, 1.0, 1),
}
_NONE = Cell("–")
_TEACHERS = {
    TEACHER: "taught the others",
    EARLY_TEACHER: "teacher that was stopped early, for eskd",
}


def table(rows: dict[str, Row], examples: int) -> Table:
    """Sets the numbers of the methods out in a table.

    Args:
      rows: by method, at least one.
      examples: in the test split.

    Returns:
      A line for each method. The best of two or more students has its cell marked in each column
      where more or less is better; equal ones are all marked.
    """
    tests = (row.t_test or row.mcnemar for row in rows.values())
    baseline = next((test.baseline for test in tests if test), None)
    compared = () if baseline is None else (f"top-1 − {baseline}\n(points)", "p")
    headings = ("method", "model", "seeds", _COLUMNS["top1"].heading, *compared)
    headings += tuple(column.heading for name, column in _COLUMNS.items() if name != "top1")
    headings += ("para-\nmeters", "FLOPs", "images/s")
    best = _best(rows)
    lines = []
    for method, row in rows.items():
        first, *others = (
            Cell(
                as_text(row.scores[name], column.digits, column.factor),
                not row.is_teacher and row.scores[name].mean == best.get(name),
            )
            for name, column in _COLUMNS.items()
        )
        cost = (
            Cell(f"{row.parameters:,}"),
            Cell(_with_prefix(row.flops)) if row.flops else _NONE,
            Cell(_two_digits(row.images_per_s)),
        )
        comparison = () if baseline is None else _compared(row, examples)
        seeds = Cell(str(len(row.seeds)))
        lines.append((Cell(method), Cell(row.model), seeds, first, *comparison, *others, *cost))
    return Table(headings, tuple(lines), _notes(rows, examples))


def _best(rows: dict[str, Row]) -> dict[str, float]:
    """The best mean of each column in which the students differ."""
    students = [row for row in rows.values() if not row.is_teacher]
    means = {name: {row.scores[name].mean for row in students} for name in _COLUMNS}
    return {
        name: max(values, key=lambda x: _COLUMNS[name].sign * x)
        for name, values in means.items()
        if len(values) > 1
    }


def _compared(row: Row, examples: int) -> tuple[Cell, Cell]:
    """Difference of the accuracies, and p-value with a letter for the test."""
    if row.t_test is not None:
        difference, p, letter = row.t_test.difference, row.t_test.p_value, "t"
    elif row.mcnemar is not None:
        difference = (row.mcnemar.gained - row.mcnemar.lost) / examples
        p, letter = row.mcnemar.p_value, "M"
    else:
        return _NONE, _NONE
    return (
        Cell(f"{100 * difference:+.2f}".replace("-", "−")),
        Cell(f"{_p_value(p)} ({letter})"),
    )


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def methods_in_words(study: ReportData) -> dict[str, str]:
    """Returns a line for each method of a study, but for swept values; teachers have theirs too."""
    lines = {}
    for network in study.networks:
        parts = network.base.split("+")
        if network.is_teacher:
            lines[network.base] = _TEACHERS[network.base]
        elif all(part in METHODS for part in parts):
            lines[network.base] = "; and ".join(METHODS[part].summary for part in parts)
    return lines


def _notes(rows: dict[str, Row], examples: int) -> tuple[str, ...]:
    notes = [
        "Test split, last checkpoint. ECE: 15 bins. V-measure, homogeneity and completeness: of "
        "the predicted against the true classes. FLOPs: of one image's forward pass, as XLA counts "
        "them before it optimises; images/s: of whole batches on the machine that made this "
        "report, measured once for each architecture."
    ]
    best = max(row.scores["top1"].mean for row in rows.values())
    error = 100 * math.sqrt(best * (1 - best) / examples)
    notes.append(
        f"One test image is {100 / examples:.2g} points of top-1; that these images were drawn and "
        f"no others makes a standard error of about {error:.2g} points."
    )
    if any(len(row.seeds) > 1 for row in rows.values()):
        notes.append("With several seeds: mean ± standard deviation (n − 1).")
    if _best(rows):
        notes.append("Bold: the best student.")
    if any(row.t_test for row in rows.values()):
        notes.append(
            "p (t): Student's paired t-test over the seeds (would training again give the same "
            "order?); none where all seeds have the same difference."
        )
    if any(row.mcnemar for row in rows.values()):
        notes.append(
            "p (M): McNemar's exact test over the test images (would other images give the same "
            "order of these two networks?)."
        )
    return tuple(notes)


def _two_digits(value: float) -> str:
    """The speed of a machine is not known more exactly."""
    return f"{float(f'{value:.2g}'):,.0f}"


def _with_prefix(value: float) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.0f}"
