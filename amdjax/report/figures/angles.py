"""Figures of angles: within attention maps, and between embeddings."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from amdjax.analysis.angles import geodesic_distances
from amdjax.report.figures import style
from amdjax.report.report_data import ReportData
from amdjax.report.summary import class_sample

_BINS = 90  # of two degrees


def map_angles(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the distribution of the angle between positive and negative map, for each level.

    Args:
      report: with at least one network.
      summaries: of its methods.

    Returns:
      A figure with a panel for each level and a row for each method: the distribution over all
      seeds, with the mean marked and as text.
    """
    methods, styles = report.by_label, style.method_styles(report)
    layers = list(report.networks[0].angles)
    height = 1.0 + 0.36 * len(methods)
    figure, grid = style.level_panels(len(layers), 1, height, sharex=True)
    for (axes,), layer in zip(grid, layers, strict=True):
        angles = [
            np.concatenate([network.angles[layer] for network in networks])
            for networks in methods.values()
        ]
        violins = axes.violinplot(
            angles,
            range(len(methods)),
            orientation="horizontal",
            widths=0.85,
            showextrema=False,
            showmeans=True,
        )
        for row, (method, body) in enumerate(zip(methods, violins["bodies"], strict=True)):
            body.set(facecolor=styles[method].color, alpha=0.75, linewidth=0)
            mean = style.stat_text(summaries[method].angles[layer], 1)
            style.annotate_row(axes, row, f"{mean}°")
        violins["cmeans"].set(color=style.INK, linewidth=1.2)
        axes.set(
            title=style.level_title(layer), xlabel="angle between positive and negative map (°)"
        )
        style.label_rows(axes, list(methods))
        axes.tick_params(labelleft=axes is grid[0, 0])
    return figure


def class_distances(report: ReportData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measures the geodesic distances of embeddings within and between classes.

    Returns:
      method -> (intra, inter) of all its seeds, float64 arrays in degrees, of the pairs of
      examples in `class_sample`.
    """
    sample = class_sample(report.labels, len(report.class_names))
    distances = {}
    for method, networks in report.by_label.items():
        pairs = [
            geodesic_distances(network.embedding[sample], report.labels[sample])
            for network in networks
        ]
        intra, inter = (np.rad2deg(np.concatenate(parts)) for parts in zip(*pairs, strict=True))
        distances[method] = intra, inter
    return distances


def geodesic(
    report: ReportData,
    summaries: style.Summaries,
    distances: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """Draws the geodesic distances of embeddings within and between classes.

    Args:
      report: with at least one network.
      summaries: of its methods.
      distances: from `class_distances`, with pairs of both kinds.

    Returns:
      A figure with a row for each method, with both means marked and as text.
    """
    styles = style.method_styles(report)
    figure = Figure(figsize=(9.5, 1.2 + 0.55 * len(distances)))
    axes = figure.subplots()
    edges = np.linspace(0.0, 180.0, _BINS + 1)
    for row, (method, pairs) in enumerate(distances.items()):
        color, base = styles[method].color, row + 0.42
        densities = [np.histogram(part, edges, density=True)[0] for part in pairs]
        unit = 0.85 / max(density.max() for density in densities)
        for part, density, filled in zip(pairs, densities, (True, False), strict=True):
            axes.stairs(
                base - unit * density,
                edges,
                baseline=base,
                fill=filled,
                color=color,
                alpha=0.6 if filled else 1.0,
                linewidth=1.5,
            )
            axes.plot([part.mean()] * 2, [base, base - 0.3], color=style.INK, linewidth=1.6)
        intra, inter = (
            style.stat_text(summaries[method].scores[name], 1)
            for name in ("geodesic_intra", "geodesic_inter")
        )
        style.annotate_row(axes, row, f"same {intra}°,  different {inter}°")
    style.label_rows(axes, list(distances))
    largest = max(np.percentile(inter, 99.9) for _, inter in distances.values())
    axes.set(
        xlim=(0.0, min(180.0, 1.05 * largest)),
        xlabel="geodesic distance between two embeddings (°)",
    )
    handles = [
        Patch(facecolor=style.INK, alpha=0.6, label="same class"),
        Patch(facecolor="none", edgecolor=style.INK, label="different classes"),
        Line2D([], [], color=style.INK, label="mean"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
