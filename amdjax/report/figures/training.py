"""Figures of the training: curves over steps, and what the AM loss has to do with accuracy."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amdjax.losses import LOSSES
from amdjax.report.figures import style
from amdjax.report.report_data import Network, ReportData


def accuracy_curves(study: ReportData) -> Figure:
    """Draws the accuracy on the test split over the steps, at most six students in a panel.

    Args:
      study: with at least one network that was evaluated while it was trained.

    Returns:
      A figure whose panels share their axes; lines are means over seeds, bands standard deviations.
    """
    groups = _groups(study, "test", "accuracy")
    teachers = [method for method, networks in groups.items() if networks[0].is_teacher]
    students = [method for method in groups if method not in teachers]
    chunks = [students[i : i + style.CYCLE] for i in range(0, len(students), style.CYCLE)] or [[]]
    look = style.looks(study)
    ratio = 0.9 if style.is_narrow() else 0.45 if len(chunks) < 2 else 0.62
    figure, grid = style.panels(len(chunks), width=7.5, ratio=ratio, most=2)
    for axes, chunk in zip(grid, chunks, strict=True):
        axes.sharex(grid[0])
        axes.sharey(grid[0])
        for method in (*teachers, *chunk):
            _curve(axes, groups[method], "test", "accuracy", look[method], factor=100.0)
        axes.set(xlabel="step", ylabel="test accuracy (%)")
        if style.is_narrow():
            fitting = style.legend_columns([*teachers, *chunk], style.page_width())
            axes.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), ncols=fitting)
        else:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def loss_curves(study: ReportData) -> Figure:
    """Draws the total loss and each of its parts, without their weights, over the steps.

    Args:
      study: with at least one network whose training was logged.

    Returns:
      A figure with a panel for each part.
    """
    look = style.looks(study)
    parts = [name for name in ("loss", *LOSSES) if has_curve(study, "train", name)]
    figure, grid = style.panels(len(parts), width=3.6, ratio=0.85, most=4)
    shown = {}
    for axes, part in zip(grid, parts, strict=True):
        positive = True
        for method, networks in _groups(study, "train", part).items():
            means = _curve(axes, networks, "train", part, look[method])
            positive &= bool((means > 0).all())
            shown[method] = None
        axes.set(title="total loss" if part == "loss" else f"{part} loss", xlabel="step")
        axes.set_yscale("log" if positive else "linear")
    for axes in grid[:: style.columns(len(parts), width=3.6, most=4)]:
        axes.set_ylabel("loss, mean over a batch")
    style.legend(figure, study, [method for method in look if method in shown])
    return figure


def has_curve(study: ReportData, split: str, key: str) -> bool:
    """Returns whether any network's log has a quantity, on the split "train" or "test"."""
    return bool(_groups(study, split, key))


def _groups(study: ReportData, split: str, key: str) -> dict[str, tuple[Network, ...]]:
    """The networks of the methods whose curves have a value at common steps."""
    return {
        method: networks
        for method, networks in style.by_method(study).items()
        if _steps(networks, split, key)
    }


def _steps(networks: tuple[Network, ...], split: str, key: str) -> list[int]:
    """The steps at which all of them have a value."""
    return sorted(set.intersection(*(set(_values(network, split, key)) for network in networks)))


def _values(network: Network, split: str, key: str) -> dict[int, float]:
    return {
        line["step"]: line[key] for line in network.curve if line["split"] == split and key in line
    }


def _curve(
    axes: Axes,
    networks: tuple[Network, ...],
    split: str,
    key: str,
    look: style.Look,
    factor: float = 1.0,
) -> np.ndarray:
    """Draws the mean over seeds, and a band of a standard deviation; returns the mean."""
    curves = [_values(network, split, key) for network in networks]
    steps = _steps(networks, split, key)
    values = factor * np.array([[curve[step] for step in steps] for curve in curves])
    mean = values.mean(0)
    marker = "." if len(steps) == 1 else None
    axes.plot(
        steps,
        mean,
        color=look.color,
        linestyle=look.linestyle,
        marker=marker,
        label=style.short(networks[0].method),
    )
    if len(curves) > 1:
        deviation = values.std(0, ddof=1)
        axes.fill_between(
            steps, mean - deviation, mean + deviation, color=look.color, alpha=0.2, linewidth=0
        )
    return mean


def common_levels(rows: style.Rows) -> list[str]:
    """Returns the layers at which all students that are compared with a teacher are compared."""
    compared = [row.am_distance for row in rows.values() if row.am_distance]
    layers = dict.fromkeys(layer for levels in compared for layer in levels)
    return [layer for layer in layers if all(layer in levels for levels in compared)]


def am_against_accuracy(study: ReportData, rows: style.Rows) -> Figure:
    """Draws the accuracy of each student over its AM loss: Figure 6 of the AMD paper.

    Args:
      study: of the networks.
      rows: the numbers of its methods, with `common_levels`.

    Returns:
      A figure with a mark for each run.
    """
    look = style.looks(study)
    figure = style.plot(8.0, 4.0)
    axes = figure.subplots()
    levels = common_levels(rows)
    points = {
        method: np.stack(
            [
                np.mean([row.am_distance[level].values for level in levels], axis=0),
                100.0 * np.array(row.scores["top1"].values),
            ]
        )
        for method, row in rows.items()
        if row.am_distance
    }
    for method, xy in points.items():
        one = look[method]
        # Marks that cover each other can be told by their edges.
        axes.plot(
            *xy,
            color=one.color,
            marker=one.marker,
            markersize=9,
            markeredgecolor=style.ink(),
            alpha=0.7,
            linestyle="none",
        )
    axes.set(xlabel="AM loss to the teacher's maps", ylabel="test accuracy (%)")
    axes.ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=True)
    axes.margins(0.12)
    style.legend(figure, study, list(points), with_marker=True)
    return figure
