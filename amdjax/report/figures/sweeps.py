"""Figures of sweeps: accuracy over one setting of a loss, and over the terms of the AM loss."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from amdjax.report.figures import style
from amdjax.report.report_data import ReportData
from amdjax.report.summary import Row
from amdjax.training.results import baseline_of

_MOST_LEVELS = 6  # level lines in one figure
_SYMBOLS = {"losses.am.weight": "γ", "losses.am.margin": "m", "losses.am.scale": "s"}


class Swept(NamedTuple):
    """A method with one value of the setting that was swept."""

    base: str
    value: str


def swept(study: ReportData, key: str) -> dict[str, Swept]:
    """Returns the methods of a study that have a value of a setting, "losses.am.margin"."""
    bases = {one.method: one.base for one in study.networks if one.swept == key}
    return {
        method: Swept(base, method.removeprefix(base).partition("=")[2])
        for method, base in bases.items()
    }


def is_numeric(study: ReportData, key: str) -> bool:
    """Returns whether the values of a setting are numbers, so that they have an axis."""
    return all(_number(entry.value) is not None for entry in swept(study, key).values())


def curves(study: ReportData, rows: style.Rows, key: str) -> Figure:
    """Draws accuracy over a swept number: Figures 8 and 9 of the AMD paper.

    Args:
      study: with methods that were swept over numbers.
      rows: the numbers of its methods.
      key: of the setting, one of `study.sweeps`.

    Returns:
      A figure with a line for each method, whiskers being standard deviations over seeds, and a
      level line for each method of which nothing was swept; if these are many, for the teachers
      and the baseline alone.
    """
    look, entries = style.looks(study), swept(study, key)
    figure = style.plot(8.0, 4.4)
    axes = figure.subplots()
    for base in dict.fromkeys(entry.base for entry in entries.values()):
        methods = [method for method, entry in entries.items() if entry.base == base]
        methods.sort(key=lambda method: _number(entries[method].value))
        means, deviations = zip(*(_accuracy(rows[method]) for method in methods), strict=True)
        one = look[methods[0]]
        axes.errorbar(
            [_number(entries[method].value) for method in methods],
            means,
            yerr=deviations,
            color=one.color,
            marker=one.marker,
            capsize=3,
            label=base,
        )
    compared = _not_swept(study)
    if len(compared) > _MOST_LEVELS:
        baseline = baseline_of(method for method, row in rows.items() if not row.is_teacher)
        compared = [name for name in compared if rows[name].is_teacher or name == baseline]
    for method in compared:
        color, (mean, deviation) = look[method].color, _accuracy(rows[method])
        axes.axhline(mean, color=color, linestyle=(0, (4, 2)), label=style.short(method))
        if deviation:
            axes.axhspan(mean - deviation, mean + deviation, color=color, alpha=0.15, lw=0)
    values = [_number(entry.value) for entry in entries.values()]
    if min(values) > 0 and max(values) >= 100 * min(values):
        axes.set_xscale("log")
    symbol = _SYMBOLS.get(key)
    axes.set(xlabel=f"{symbol} ({key})" if symbol else key, ylabel="test accuracy (%)")
    names = axes.get_legend_handles_labels()[1]
    figure.legend(
        loc="outside lower center", ncols=style.legend_columns(names, figure.get_figwidth())
    )
    return figure


def bars(study: ReportData, rows: style.Rows, key: str) -> Figure:
    """Draws the accuracy for each swept value that is no number: Figure 5 of the AMD paper.

    Args:
      study: with swept methods.
      rows: the numbers of its methods.
      key: of the setting, one of `study.sweeps`.

    Returns:
      A figure with a row for each student but those of other sweeps; the AM loss's terms have the
      letters of the paper. Whiskers are standard deviations over seeds.
    """
    look = style.looks(study)
    shown = {*study.sweeps[key], *_not_swept(study)}
    students = {
        method: row for method, row in rows.items() if method in shown and not row.is_teacher
    }
    figure = style.plot(8.0, 1.1 + style.row_height(0.34) * len(students))
    axes = figure.subplots()
    ends = []
    for line, (method, row) in enumerate(students.items()):
        mean, deviation = _accuracy(row)
        ends += [mean - deviation, mean + deviation]
        axes.barh(
            line,
            mean,
            0.7,
            xerr=deviation or None,
            color=look[method].color,
            ecolor=style.ink(),
            capsize=3,
        )
        style.at_right(axes, line, f"{style.as_text(row.scores['top1'], 2, 100)} %")
    style.name_rows(axes, list(students))
    # From 0 on, bars of 85 and 86 % look the same.
    low = max(0.0, np.floor(min(ends) - max(1.0, np.ptp(ends))))
    axes.set_xlim(low, max(ends) + 0.05 * (max(ends) - low))
    axes.set_xlabel(f"test accuracy (%), from {low:.0f} on")
    return figure


def _not_swept(study: ReportData) -> list[str]:
    return [one.method for one in style.firsts(study) if not one.swept]


def _accuracy(row: Row) -> tuple[float, float]:
    """Mean and standard deviation over seeds, in per cent; 0 of a single one."""
    score = row.scores["top1"]
    return 100.0 * score.mean, 100.0 * (score.std or 0.0)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
