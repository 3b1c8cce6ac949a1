"""Figures of calibration: Guo et al., On calibration of modern neural networks, ICML 2017."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from amdjax.analysis.calibration import Reliability, reliability
from amdjax.report.figures import style
from amdjax.report.report_data import ReportData


def reliability_diagrams(study: ReportData, rows: style.Rows) -> Figure:
    """Draws how often predictions of a given confidence are right, for each method's first seed.

    Below each diagram stands how many predictions have which confidence.

    Args:
      study: with at least one network.
      rows: the numbers of its methods, of which the ECE is written in.

    Returns:
      A figure with two panels for each method.
    """
    networks, look = style.firsts(study), style.looks(study)
    columns = style.columns(len(networks), width=2.7, most=5)
    lines = -(-len(networks) // columns)
    width = min(2.7, style.page_width() / columns)
    figure = Figure(figsize=(width * columns, 3.6 * lines + 0.4))
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[2.4, 1] * lines)
    for i, network in enumerate(networks):
        line, column = divmod(i, columns)
        diagram = figure.add_subplot(grid[2 * line, column])
        histogram = figure.add_subplot(grid[2 * line + 1, column], sharex=diagram)
        result = reliability(network.logits, study.labels)
        _diagram(diagram, result, look[network.method].color)
        _histogram(histogram, result, look[network.method].color)
        ece = style.of_first(rows[network.method].scores["ece"], 2, 100)
        diagram.set_title(f"{style.wrapped(network.method)}\nECE (%) {ece}")
        if column == 0:
            diagram.set_ylabel("accuracy (%)")
            histogram.set_ylabel("images")
        histogram.set_xlabel("confidence (%)")
    handles = [
        Patch(facecolor=style.ink(), alpha=0.65, label="accuracy of the bin"),
        Patch(facecolor="none", edgecolor=style.ink(), hatch="/////", label="gap to confidence"),
        Line2D([], [], color=style.ink(), linestyle=(0, (4, 2)), label="perfect calibration"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3 if columns > 2 else 1)
    return figure


def _edges(result: Reliability) -> tuple[np.ndarray, float]:
    width = 100.0 / len(result.count)
    return width * np.arange(len(result.count)), width


def _diagram(axes: Axes, result: Reliability, color: str) -> None:
    left, width = _edges(result)
    filled = result.count > 0
    left, accuracy = left[filled], 100 * result.accuracy[filled]
    gap = 100 * result.confidence[filled] - accuracy
    axes.bar(left, accuracy, width, align="edge", color=color, edgecolor=style.paper())
    # Over the bar itself the hatching has the colour of paper, which can be seen on all others.
    for over, hatching in ((gap < 0, style.paper()), (gap >= 0, style.ink())):
        axes.bar(
            left[over],
            gap[over],
            width,
            accuracy[over],
            align="edge",
            facecolor="none",
            edgecolor=hatching,
            hatch="/////",
            linewidth=0.8,
        )
    axes.plot([0, 100], [0, 100], color=style.ink(), linestyle=(0, (4, 2)), linewidth=1.1)
    axes.set(xlim=(0, 100), ylim=(0, 102), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    axes.tick_params(labelbottom=False)


def _histogram(axes: Axes, result: Reliability, color: str) -> None:
    left, width = _edges(result)
    axes.bar(left, result.count, width, align="edge", color=color, edgecolor=style.paper())
    # Most predictions are sure: on a linear axis one bar would be all that is seen.
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2.0 * result.count.sum())
    axes.yaxis.set_major_formatter("{x:,.0f}")


def temperature_scaling(study: ReportData, rows: style.Rows) -> Figure:
    """Draws the calibration error before and after temperature scaling, on the held-out half.

    Args:
      study: with at least one network.
      rows: the numbers of its methods.

    Returns:
      A figure with one row for each method; whiskers are standard deviations over seeds.
    """
    look = style.looks(study)
    figure = style.plot(9.5, 1.1 + style.row_height(0.3) * len(rows))
    axes = figure.subplots()
    circle = {"marker": "o", "markersize": 8, "markeredgewidth": 1.8, "linestyle": "none"}
    for line, (method, row) in enumerate(rows.items()):
        color = look[method].color
        scores = [row.scores[name] for name in ("ece_before", "ece_after")]
        axes.plot([100 * score.mean for score in scores], [line] * 2, color=color, linewidth=2)
        for score, face in zip(scores, (style.paper(), color), strict=True):
            axes.errorbar(
                100 * score.mean,
                line,
                xerr=None if score.std is None else 100 * score.std,
                color=color,
                markerfacecolor=face,
                elinewidth=1.2,
                capsize=3,
                **circle,
            )
        before, after = (style.as_text(score, 1, 100) for score in scores)
        temperature = style.as_text(row.scores["temperature"], 2)
        style.at_right(axes, line, f"{before} → {after}   T = {temperature}")
    style.name_rows(axes, list(rows))
    axes.set_xlim(left=0)
    axes.set_xlabel("ECE on the held-out half (%)")
    handles = [
        Line2D([], [], color=style.ink(), markerfacecolor=face, label=label, **circle)
        for face, label in ((style.paper(), "before (T = 1)"), (style.ink(), "after"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
