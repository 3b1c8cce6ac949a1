"""Figures of calibration: Guo et al., On calibration of modern neural networks, ICML 2017."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from amdjax.analysis.calibration import Reliability, reliability
from amdjax.report.figures import style
from amdjax.report.report_data import ReportData


def reliability_diagrams(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws reliability diagrams of the first seed of each method.

    Below each diagram is the histogram of the confidences.

    Args:
      report: with at least one network.
      summaries: of its methods, whose ECE is in the titles.

    Returns:
      A figure with two panels for each method.
    """
    networks, styles = report.first_seeds, style.method_styles(report)
    columns = style.columns(len(networks), width=2.7, most=5)
    rows = math.ceil(len(networks) / columns)
    width = min(2.7, style.PAGE_WIDTH / columns)
    figure = Figure(figsize=(width * columns, 3.6 * rows + 0.4))
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.4, 1] * rows)
    for i, network in enumerate(networks):
        row, column = divmod(i, columns)
        diagram = figure.add_subplot(grid[2 * row, column])
        histogram = figure.add_subplot(grid[2 * row + 1, column], sharex=diagram)
        result = reliability(network.logits, report.labels)
        color = styles[network.label].color
        _draw_diagram(diagram, result, color)
        _draw_histogram(histogram, result, color)
        ece = style.first_seed_text(summaries[network.label].scores["ece"], 2, 100)
        diagram.set_title(f"{style.wrapped_label(network.label)}\nECE (%) {ece}")
        if column == 0:
            diagram.set_ylabel("accuracy (%)")
            histogram.set_ylabel("images")
        histogram.set_xlabel("confidence (%)")
    handles = [
        Patch(facecolor=style.INK, alpha=0.65, label="accuracy of the bin"),
        Patch(facecolor="none", edgecolor=style.INK, hatch="/////", label="gap to the confidence"),
        Line2D([], [], color=style.INK, linestyle=(0, (4, 2)), label="perfect calibration"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3 if columns > 2 else 1)
    return figure


def _edges(result: Reliability) -> tuple[np.ndarray, float]:
    """Returns the left edges of the bins and their width, in per cent."""
    width = 100.0 / len(result.counts)
    return width * np.arange(len(result.counts)), width


def _draw_diagram(axes: Axes, result: Reliability, color: str) -> None:
    left, width = _edges(result)
    filled = result.counts > 0
    left, accuracy = left[filled], 100 * result.accuracy[filled]
    gap = 100 * result.confidence[filled] - accuracy
    axes.bar(left, accuracy, width, align="edge", color=color, edgecolor=style.PAPER)
    # Hatching on the bar is white, which is visible on all colours.
    for members, hatching in ((gap < 0, style.PAPER), (gap >= 0, style.INK)):
        axes.bar(
            left[members],
            gap[members],
            width,
            accuracy[members],
            align="edge",
            facecolor="none",
            edgecolor=hatching,
            hatch="/////",
            linewidth=0.8,
        )
    axes.plot([0, 100], [0, 100], color=style.INK, linestyle=(0, (4, 2)), linewidth=1.1)
    axes.set(xlim=(0, 100), ylim=(0, 102), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    axes.tick_params(labelbottom=False)


def _draw_histogram(axes: Axes, result: Reliability, color: str) -> None:
    left, width = _edges(result)
    axes.bar(left, result.counts, width, align="edge", color=color, edgecolor=style.PAPER)
    # Most predictions are confident: a linear axis would show a single bar.
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2.0 * result.counts.sum())
    axes.yaxis.set_major_formatter("{x:,.0f}")


def temperature_scaling(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the calibration error before and after temperature scaling, on the held-out half.

    Args:
      report: with at least one network.
      summaries: of its methods.

    Returns:
      A figure with a row for each method; error bars are standard deviations over seeds.
    """
    styles = style.method_styles(report)
    figure = Figure(figsize=(9.5, 1.1 + 0.3 * len(summaries)))
    axes = figure.subplots()
    circle = {"marker": "o", "markersize": 8, "markeredgewidth": 1.8, "linestyle": "none"}
    for row, (method, summary) in enumerate(summaries.items()):
        color = styles[method].color
        stats = [summary.scores[name] for name in ("ece_before", "ece_after")]
        axes.plot([100 * stat.mean for stat in stats], [row] * 2, color=color, linewidth=2)
        for stat, face in zip(stats, (style.PAPER, color), strict=True):
            axes.errorbar(
                100 * stat.mean,
                row,
                xerr=None if stat.std is None else 100 * stat.std,
                color=color,
                markerfacecolor=face,
                elinewidth=1.2,
                capsize=3,
                **circle,
            )
        before, after = (style.stat_text(stat, 1, 100) for stat in stats)
        temperature = style.stat_text(summary.scores["temperature"], 2)
        style.annotate_row(axes, row, f"{before} → {after}   T = {temperature}")
    style.label_rows(axes, list(summaries))
    axes.set_xlim(left=0)
    axes.set_xlabel("ECE on the held-out half (%)")
    handles = [
        Line2D([], [], color=style.INK, markerfacecolor=face, label=label, **circle)
        for face, label in ((style.PAPER, "before (T = 1)"), (style.INK, "after"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
