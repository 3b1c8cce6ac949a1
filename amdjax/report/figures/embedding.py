"""Figures of embeddings: t-SNE, principal components and singular values."""

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.linalg import orthogonal_procrustes
from tqdm import tqdm

from amdjax.analysis.embedding import Components, pca, tsne
from amdjax.errors import UserError
from amdjax.report.figures import style
from amdjax.report.report_data import ModelResult, ReportData

_EXAMPLES = (200, 600)  # least and largest number per network; t-SNE of 600 takes two seconds
_ALL_EXAMPLES = 6000  # of all networks together
_DIGIT = (0.04, 0.07)  # width and height of one digit of a class number, in panels
_PANEL = (2.7, 1.25, 5)  # width in inches, ratio of height to width, most columns


def choose_examples(report: ReportData) -> np.ndarray:
    """Chooses the test images to draw: the same for every network, and fewer for many networks.

    Of more than `MAX_CLASSES` classes an evenly spaced subset is taken. The images are the first
    ones of each class, the same number of each.

    Returns:
      int64 [n], ascending, at most 600.
    """
    labels = report.labels
    count = np.clip(_ALL_EXAMPLES // max(1, len(report.first_seeds)), *_EXAMPLES)
    present = np.unique(labels)
    ranks = np.linspace(0, len(present) - 1, min(len(present), style.MAX_CLASSES))
    chosen = present[np.round(ranks).astype(int)]
    per_class = max(1, count // max(1, len(chosen)))
    members = [np.flatnonzero(labels == label)[:per_class] for label in chosen]
    return np.sort(np.concatenate(members)) if members else np.zeros([0], np.int64)


def layouts(
    networks: tuple[ModelResult, ...], examples: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, UserError]]:
    """Computes t-SNE of each network's embeddings, the slowest part of a report.

    Args:
      networks: with embeddings [N,D].
      examples: int [n], indices of the examples, from `choose_examples`.

    Returns:
      (name of the network -> float [n,2], name -> why there is no layout). Each layout is rotated
      and mirrored to be as close as possible to the first one, since only the distances within a
      layout are meaningful.
    """
    bar = tqdm(networks, "t-SNE", unit=" networks", leave=False, disable=None)
    points, errors = {}, {}
    for network in bar:
        try:
            layout = tsne(network.embedding[examples], seed=0)
        except UserError as error:
            errors[network.name] = error
        else:
            layout = layout - layout.mean(0)
            first = next(iter(points.values()), layout)
            points[network.name] = layout @ orthogonal_procrustes(layout, first)[0]
    return points, errors


def tsne_panels(
    report: ReportData,
    summaries: style.Summaries,
    layout: dict[str, np.ndarray],
    examples: np.ndarray,
) -> Figure:
    """Draws t-SNE of the first seed of each method, with the V-measure below.

    Args:
      report: with at least one network.
      summaries: of its methods.
      layout: from `layouts`.
      examples: int [n], from `choose_examples`.

    Returns:
      A figure with a panel for each method that has a layout.
    """
    networks = [network for network in report.first_seeds if network.name in layout]
    labels = report.labels[examples]
    figure, grid = style.panels(len(networks), *_PANEL)
    for axes, network in zip(grid, networks, strict=True):
        _scatter(axes, layout[network.name], labels)
        v_measure = style.first_seed_text(summaries[network.label].scores["v_measure"], 3)
        axes.set(title=style.wrapped_label(network.label), xlabel=f"V {v_measure}")
    return figure


def principal_components(
    networks: tuple[ModelResult, ...],
) -> tuple[dict[str, Components], dict[str, UserError]]:
    """Computes the first two principal components of each network's embeddings.

    Args:
      networks: with embeddings [N,D].

    Returns:
      (name of the network -> `pca` of all its embeddings, name -> why there are no components).
    """
    components, errors = {}, {}
    for network in networks:
        try:
            components[network.name] = pca(network.embedding)
        except UserError as error:
            errors[network.name] = error
    return components, errors


def pca_panels(
    report: ReportData, components: dict[str, Components], examples: np.ndarray
) -> Figure:
    """Draws the first two principal components of the first seed of each method.

    Args:
      report: with at least one network.
      components: from `principal_components`.
      examples: int [n], the ones to draw.

    Returns:
      A figure with a panel for each method that has components, with the explained variance in
      the axis labels.
    """
    networks = [network for network in report.first_seeds if network.name in components]
    labels = report.labels[examples]
    figure, grid = style.panels(len(networks), *_PANEL)
    first = components[networks[0].name].coordinates
    for axes, network in zip(grid, networks, strict=True):
        points, explained, _ = components[network.name]
        # The sign of a component is arbitrary: take the one closer to the first network.
        points = points * np.where((points * first).sum(0) < 0, -1.0, 1.0)
        _scatter(axes, points[examples], labels)
        axes.set(
            title=style.wrapped_label(network.label),
            xlabel=f"component 1 ({100 * explained[0]:.0f} %)",
            ylabel=f"component 2 ({100 * explained[1]:.0f} %)",
        )
    return figure


def _scatter(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Draws points in the colours of their classes, with the class numbers at the medians.

    Both axes have the same scale.
    """
    low, high = points.min(0), points.max(0)
    points = 0.5 + (points - (low + high) / 2) / max((high - low).max(), 1e-12)
    classes = np.unique(labels)
    size = np.array(_DIGIT) * (len(str(classes[-1])), 1)
    outline = matplotlib.patheffects.withStroke(linewidth=2.6, foreground=style.PAPER)
    numbered: list[np.ndarray] = []
    for rank, label in enumerate(classes):
        color, marker = style.class_style(rank)
        members = points[labels == label]
        axes.scatter(*members.T, s=9, color=color, marker=marker, linewidths=0, alpha=0.8)
        median = np.median(members, axis=0)
        if any((np.abs(median - other) < size).all() for other in numbered):
            continue
        numbered.append(median)
        axes.text(
            *median,
            str(label),
            ha="center",
            va="center",
            fontsize=10 if len(classes) <= 10 else 8,
            fontweight="bold",
            path_effects=[outline],
        )
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(True)


def spectrum(report: ReportData, components: dict[str, Components]) -> Figure:
    """Draws the singular values of the embeddings of the first seed of each method.

    Args:
      report: with at least one network.
      components: from `principal_components`.

    Returns:
      A figure with one panel, with a line for each method that has components.
    """
    styles = style.method_styles(report)
    networks = [network for network in report.first_seeds if network.name in components]
    figure = Figure(figsize=(8.0, 3.8))
    axes = figure.subplots()
    smallest = 1.0
    for network in networks:
        values = components[network.name].singular_values
        # Smaller values are rounding errors of unused dimensions.
        values = values[values > 1e-6]
        smallest = min(smallest, values.min(initial=1.0))
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=styles[network.label].color,
            linestyle=styles[network.label].linestyle,
        )
    axes.set_yscale("log")
    axes.set(xlabel="index of the singular value", ylabel="singular value / largest")
    axes.set_xlim(left=1)
    axes.set_ylim(smallest / 1.3, 1.3)
    style.add_legend(figure, report, [network.label for network in networks])
    return figure
