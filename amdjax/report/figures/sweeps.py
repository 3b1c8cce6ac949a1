"""Figures of sweeps: accuracy against a setting of a loss, and for the terms of the AM loss."""

import numpy as np
from matplotlib.figure import Figure

from amdjax.comparison import baseline_of
from amdjax.report.figures import style
from amdjax.report.report_data import ModelResult, ReportData
from amdjax.report.summary import MethodSummary

_MAX_REFERENCES = 6  # horizontal lines in one figure
_SYMBOLS = {"losses.am.weight": "γ", "losses.am.margin": "m", "losses.am.scale": "s"}


def swept_networks(report: ReportData, key: str) -> dict[str, ModelResult]:
    """Returns the first seed of each method and value of a swept setting, "losses.am.margin"."""
    return {network.label: network for network in report.first_seeds if network.sweep_key == key}


def is_numeric(report: ReportData, key: str) -> bool:
    """Returns whether the values of a swept setting are numbers."""
    values = [network.sweep_value for network in swept_networks(report, key).values()]
    return all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)


def curves(report: ReportData, summaries: style.Summaries, key: str) -> Figure:
    """Draws accuracy against a swept number: Figures 8 and 9 of the AMD paper.

    Args:
      report: with a sweep over numbers.
      summaries: of its methods.
      key: the setting, one of `report.sweeps`.

    Returns:
      A figure with a line for each swept method, whose error bars are standard deviations over the
      seeds, and a horizontal line for each other method; if there are many of these, only for the
      teachers and the baseline.
    """
    networks, references = swept_networks(report, key), _not_swept(report)
    swept = dict.fromkeys(network.method for network in networks.values())
    # By method: the values of one have one colour.
    teachers = {name: summaries[name].is_teacher for name in references}
    styles = style.styles_of(dict.fromkeys(swept, False) | teachers)
    figure = Figure(figsize=(8.0, 4.4))
    axes = figure.subplots()
    for method in swept:
        points = [network for network in networks.values() if network.method == method]
        points.sort(key=lambda network: network.sweep_value)
        means, stds = zip(*(_accuracy(summaries[network.label]) for network in points), strict=True)
        axes.errorbar(
            [network.sweep_value for network in points],
            means,
            yerr=stds,
            color=styles[method].color,
            marker=styles[method].marker,
            capsize=3,
            label=method,
        )
    if len(references) > _MAX_REFERENCES:
        baseline = baseline_of(
            name for name, summary in summaries.items() if not summary.is_teacher
        )
        references = [name for name in references if summaries[name].is_teacher or name == baseline]
    for method in references:
        color, (mean, std) = styles[method].color, _accuracy(summaries[method])
        # Solid lines are the swept methods; several others may have one colour.
        line = styles[method].linestyle
        axes.axhline(
            mean, color=color, linestyle=(0, (4, 2)) if line == "-" else line, label=method
        )
        if std:
            axes.axhspan(mean - std, mean + std, color=color, alpha=0.15, lw=0)
    values = [network.sweep_value for network in networks.values()]
    if min(values) > 0 and max(values) >= 100 * min(values):
        axes.set_xscale("log")
    symbol = _SYMBOLS.get(key)
    axes.set(xlabel=f"{symbol} ({key})" if symbol else key, ylabel="test accuracy (%)")
    names = axes.get_legend_handles_labels()[1]
    figure.legend(
        loc="outside lower center", ncols=style.legend_columns(names, figure.get_figwidth())
    )
    return figure


def bars(report: ReportData, summaries: style.Summaries, key: str) -> Figure:
    """Draws the accuracy for each value of a swept setting: Figure 5 of the AMD paper.

    Args:
      report: with a sweep over values that are not numbers.
      summaries: of its methods.
      key: the setting, one of `report.sweeps`.

    Returns:
      A figure with a row for each student without those of other sweeps; the terms of the AM loss
      have the letters of the paper. Error bars are standard deviations over the seeds.
    """
    styles = style.method_styles(report)
    wanted = {*report.sweeps[key], *_not_swept(report)}
    students = {
        method: summary
        for method, summary in summaries.items()
        if method in wanted and not summary.is_teacher
    }
    figure = Figure(figsize=(8.0, 1.1 + 0.34 * len(students)))
    axes = figure.subplots()
    ends = []
    for row, (method, summary) in enumerate(students.items()):
        mean, std = _accuracy(summary)
        ends += [mean - std, mean + std]
        color = styles[method].color
        axes.barh(row, mean, 0.7, xerr=std or None, color=color, ecolor=style.INK, capsize=3)
        style.annotate_row(axes, row, f"{style.stat_text(summary.scores['top1'], 2, 100)} %")
    style.label_rows(axes, list(students))
    # An axis from 0 would hide the difference between 85 and 86 %.
    low = max(0.0, np.floor(min(ends) - max(1.0, np.ptp(ends))))
    axes.set_xlim(low, max(ends) + 0.05 * (max(ends) - low))
    axes.set_xlabel(f"test accuracy (%); the axis starts at {low:.0f}")
    return figure


def _not_swept(report: ReportData) -> list[str]:
    return [network.label for network in report.first_seeds if not network.sweep_key]


def _accuracy(summary: MethodSummary) -> tuple[float, float]:
    """Returns mean and standard deviation over the seeds, in per cent; 0 for a single seed."""
    top1 = summary.scores["top1"]
    return 100.0 * top1.mean, 100.0 * (top1.std or 0.0)
