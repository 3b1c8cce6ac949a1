"""Figures of embeddings: t-SNE, principal components, and the spectrum."""

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.linalg import orthogonal_procrustes
from tqdm import tqdm

from amdjax.analysis.embedding import Components, tsne
from amdjax.errors import UserError
from amdjax.report.figures import style
from amdjax.report.report_data import Network, ReportData

_EXAMPLES = (200, 600)  # that are shown of each network; t-SNE lays 600 out in two seconds
_ALL_EXAMPLES = 6000  # of all networks
_DIGIT = (0.04, 0.07)  # width and height of a class number's digit, as shares of a panel
_PANEL = {"width": 2.7, "ratio": 1.25, "most": 5}


def sample(study: ReportData) -> np.ndarray:
    """Chooses the test images that are shown: the same of every network, of many networks fewer.

    Of more classes than can be told apart, some are taken, evenly spread; of each class as many as
    of the others, the first ones.

    Returns:
      int64 [n], ascending, at most 600.
    """
    labels = study.labels
    count = np.clip(_ALL_EXAMPLES // max(1, len(style.firsts(study))), *_EXAMPLES)
    present = np.unique(labels)
    spread = np.linspace(0, len(present) - 1, min(len(present), style.MAX_CLASSES))
    chosen = present[np.round(spread).astype(int)]
    each = max(1, count // max(1, len(chosen)))
    members = [np.flatnonzero(labels == label)[:each] for label in chosen]
    return np.sort(np.concatenate(members)) if members else np.zeros([0], np.int64)


def layouts(
    networks: tuple[Network, ...], examples: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, UserError]]:
    """Lays each network's embeddings out by t-SNE, which is the slow part of a report.

    Args:
      networks: with embeddings [N,D].
      examples: int [n], indices of those to lay out, from `sample`.

    Returns:
      (name of the network -> float [n,2], name -> why it has none). Layouts are turned and mirrored
      to lie as near as they can to the first one: only the distances within one mean anything.
    """
    bar = tqdm(networks, "t-SNE", unit=" networks", leave=False, disable=None)
    points, reasons = {}, {}
    for network in bar:
        try:
            layout = tsne(network.embedding[examples], seed=0)
        except UserError as error:
            reasons[network.name] = error
        else:
            layout = layout - layout.mean(0)
            first = next(iter(points.values()), layout)
            points[network.name] = layout @ orthogonal_procrustes(layout, first)[0]
    return points, reasons


def tsne_panels(
    study: ReportData, rows: style.Rows, layout: dict[str, np.ndarray], examples: np.ndarray
) -> Figure:
    """Draws t-SNE of each method's first seed, the teacher first, with the V-measure below.

    Args:
      study: with at least one network.
      rows: the numbers of its methods.
      layout: from `layouts`.
      examples: int [n], from `sample`.

    Returns:
      A figure with one panel for each method that has a layout.
    """
    networks = [network for network in style.firsts(study) if network.name in layout]
    labels = study.labels[examples]
    figure, grid = style.panels(len(networks), **_PANEL)
    for axes, network in zip(grid, networks, strict=True):
        _scatter(axes, layout[network.name], labels)
        v_measure = style.of_first(rows[network.method].scores["v_measure"], 3)
        axes.set(title=style.wrapped(network.method), xlabel=f"V {v_measure}")
    return figure


def pca_panels(
    study: ReportData, components: dict[str, Components], examples: np.ndarray
) -> Figure:
    """Draws the first two principal components of each method's first seed.

    Args:
      study: with at least one network.
      components: name of the network -> `pca` of its embeddings.
      examples: int [n], those that are shown; the components are those of all.

    Returns:
      A figure with one panel for each method, the explained variance at its axes.
    """
    networks, labels = style.firsts(study), study.labels[examples]
    figure, grid = style.panels(len(networks), **_PANEL)
    first = components[networks[0].name].coordinates
    for axes, network in zip(grid, networks, strict=True):
        points, explained, _ = components[network.name]
        # The sign of a component means nothing: that which is nearer to the first network's.
        points = points * np.where((points * first).sum(0) < 0, -1.0, 1.0)
        _scatter(axes, points[examples], labels)
        axes.set(
            title=style.wrapped(network.method),
            xlabel=f"component 1 ({100 * explained[0]:.0f} %)",
            ylabel=f"component 2 ({100 * explained[1]:.0f} %)",
        )
    return figure


def _scatter(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Points in the colours of their classes, the numbers of these at the centres.

    Both axes have one scale.
    """
    low, high = points.min(0), points.max(0)
    points = 0.5 + (points - (low + high) / 2) / max((high - low).max(), 1e-12)
    classes = np.unique(labels)
    room = np.array(_DIGIT) * (len(str(classes[-1])), 1)
    outline = matplotlib.patheffects.withStroke(linewidth=2.6, foreground=style.paper())
    taken: list[np.ndarray] = []
    for rank, label in enumerate(classes):
        color, marker = style.class_look(rank)
        members = points[labels == label]
        axes.scatter(*members.T, s=9, color=color, marker=marker, linewidths=0, alpha=0.8)
        centre = np.median(members, axis=0)
        if any((np.abs(centre - other) < room).all() for other in taken):
            continue
        taken.append(centre)
        axes.text(
            *centre,
            str(label),
            ha="center",
            va="center",
            fontsize=10 if len(classes) <= 10 else 8,
            fontweight="bold",
            path_effects=[outline],
        )
    axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(True)


def spectrum(study: ReportData, components: dict[str, Components]) -> Figure:
    """Draws the singular values of each method's embeddings, first seed, in one plot.

    Args:
      study: with at least one network.
      components: name of the network -> `pca` of its embeddings.

    Returns:
      A figure of one panel.
    """
    look, networks = style.looks(study), style.firsts(study)
    figure = style.plot(8.0, 3.8)
    axes = figure.subplots()
    smallest = 1.0
    for network in networks:
        values = components[network.name].singular_values
        # What is left of a dimension that is not used is rounding.
        values = values[values > 1e-6]
        smallest = min(smallest, values.min(initial=1.0))
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=look[network.method].color,
            linestyle=look[network.method].linestyle,
        )
    axes.set_yscale("log")
    axes.set(xlabel="index of the singular value", ylabel="singular value / the largest")
    axes.set_xlim(left=1)
    axes.set_ylim(smallest / 1.3, 1.3)
    style.legend(figure, study, [network.method for network in networks])
    return figure
