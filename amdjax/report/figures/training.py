"""Figures of the training: accuracy and losses over the steps, accuracy against the AM loss."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amdjax.losses import LOSSES
from amdjax.report.figures import style
from amdjax.report.report_data import ModelResult, ReportData


def accuracy_curves(report: ReportData) -> Figure:
    """Draws the accuracy on `evaluated_split` over the steps, at most six students in a panel.

    Args:
      report: with at least one network whose metrics file has an evaluation.

    Returns:
      A figure whose panels have the same axes; lines are means over the seeds,
      bands are standard deviations.
    """
    split = evaluated_split(report)
    groups = _groups(report, split, "accuracy")
    teachers = [method for method, networks in groups.items() if networks[0].is_teacher]
    students = [method for method in groups if method not in teachers]
    chunks = [students[i : i + style.CYCLE] for i in range(0, len(students), style.CYCLE)] or [[]]
    styles = style.method_styles(report)
    ratio = 0.45 if len(chunks) < 2 else 0.62
    figure, grid = style.panels(len(chunks), width=7.5, ratio=ratio, most=2)
    for axes, chunk in zip(grid, chunks, strict=True):
        axes.sharex(grid[0])
        axes.sharey(grid[0])
        for method in (*teachers, *chunk):
            _curve(axes, groups[method], split, "accuracy", styles[method], factor=100.0)
        axes.set(xlabel="step", ylabel=f"{split} accuracy (%)")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def loss_curves(report: ReportData) -> Figure:
    """Draws the total loss and each of its terms, without their weights, over the steps.

    Args:
      report: with at least one network whose metrics file has training steps.

    Returns:
      A figure with a panel for each term.
    """
    styles = style.method_styles(report)
    terms = [name for name in ("loss", *LOSSES) if _groups(report, "train", name)]
    figure, grid = style.panels(len(terms), width=3.6, ratio=0.85, most=4)
    drawn = set()
    for axes, term in zip(grid, terms, strict=True):
        positive = True
        for method, networks in _groups(report, "train", term).items():
            means = _curve(axes, networks, "train", term, styles[method])
            positive &= bool((means > 0).all())
            drawn.add(method)
        axes.set(title="total loss" if term == "loss" else f"{term} loss", xlabel="step")
        axes.set_yscale("log" if positive else "linear")
    for axes in grid[:: style.columns(len(terms), width=3.6, most=4)]:
        axes.set_ylabel("loss (mean over a batch)")
    style.add_legend(figure, report, [method for method in styles if method in drawn])
    return figure


def evaluated_split(report: ReportData) -> str:
    """Returns the split on which the accuracy curves are: "validation" where any network has it."""
    return "validation" if methods_with_curve(report, "validation", "accuracy") else "test"


def methods_with_curve(report: ReportData, split: str, key: str) -> list[str]:
    """Returns the methods whose metrics files have a quantity, on a split such as "train"."""
    return list(_groups(report, split, key))


def _groups(report: ReportData, split: str, key: str) -> dict[str, tuple[ModelResult, ...]]:
    """Returns the networks of each method whose seeds have values at common steps."""
    return {
        method: networks
        for method, networks in report.by_label.items()
        if _steps(networks, split, key)
    }


def _steps(networks: tuple[ModelResult, ...], split: str, key: str) -> list[int]:
    """Returns the steps at which all of the networks have a value."""
    return sorted(set.intersection(*(set(_values(network, split, key)) for network in networks)))


def _values(network: ModelResult, split: str, key: str) -> dict[int, float]:
    return {
        line["step"]: line[key] for line in network.curve if line["split"] == split and key in line
    }


def _curve(
    axes: Axes,
    networks: tuple[ModelResult, ...],
    split: str,
    key: str,
    method_style: style.MethodStyle,
    factor: float = 1.0,
) -> np.ndarray:
    """Draws the mean over the seeds with a band of one standard deviation; returns the mean."""
    curves = [_values(network, split, key) for network in networks]
    steps = _steps(networks, split, key)
    values = factor * np.array([[curve[step] for step in steps] for curve in curves])
    mean = values.mean(0)
    marker = "." if len(steps) == 1 else None
    axes.plot(
        steps,
        mean,
        color=method_style.color,
        linestyle=method_style.linestyle,
        marker=marker,
        label=style.short_label(networks[0].label),
    )
    if len(curves) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(
            steps,
            mean - deviation,
            mean + deviation,
            color=method_style.color,
            alpha=0.2,
            linewidth=0,
        )
    return mean


def common_levels(summaries: style.Summaries) -> list[str]:
    """Returns the layers at which every student with a teacher is compared with it."""
    compared = [summary.am_distance for summary in summaries.values() if summary.am_distance]
    layers = dict.fromkeys(layer for levels in compared for layer in levels)
    return [layer for layer in layers if all(layer in levels for levels in compared)]


def am_against_accuracy(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the accuracy of each student against its AM loss: Figure 6 of the AMD paper.

    Args:
      report: of the networks.
      summaries: of its methods, with `common_levels`.

    Returns:
      A figure with a marker for each run.
    """
    styles = style.method_styles(report)
    figure = Figure(figsize=(8.0, 4.0))
    axes = figure.subplots()
    levels = common_levels(summaries)
    points = {
        method: np.stack(
            [
                np.mean([summary.am_distance[level].values for level in levels], axis=0),
                100.0 * np.array(summary.scores["top1"].values),
            ]
        )
        for method, summary in summaries.items()
        if summary.am_distance
    }
    for method, xy in points.items():
        # Edges separate markers that cover each other.
        axes.plot(
            *xy,
            color=styles[method].color,
            marker=styles[method].marker,
            markersize=9,
            markeredgecolor=style.INK,
            alpha=0.7,
            linestyle="none",
        )
    axes.set(xlabel="AM loss to the teacher's maps", ylabel="test accuracy (%)")
    losses = np.concatenate([x for x, _ in points.values()])
    if 0 < 10 * losses.min() < losses.max():  # one method would squeeze the others together
        axes.set_xscale("log")
    else:
        axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=True)
    axes.margins(0.12)
    style.add_legend(figure, report, list(points), with_marker=True)
    return figure
