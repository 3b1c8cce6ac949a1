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


def map_angles(study: ReportData, rows: style.Rows) -> Figure:
    """Draws the distribution of the angle between positive and negative map, for each level.

    Args:
      study: with at least one network.
      rows: the numbers of its methods.

    Returns:
      A figure with a panel for each level, and in it a row for each method: the angles of all its
      seeds, the mean marked and written down.
    """
    methods, look = style.by_method(study), style.looks(study)
    layers = list(study.networks[0].angles)
    height = 1.0 + style.row_height(0.36) * len(methods)
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
            body.set(facecolor=look[method].color, alpha=0.75, linewidth=0)
            style.at_right(axes, row, f"{style.as_text(rows[method].angles[layer], 1)}°")
        violins["cmeans"].set(color=style.ink(), linewidth=1.2)
        axes.set(title=style.level(layer), xlabel="angle of positive and negative map (°)")
        style.name_rows(axes, list(methods))
        axes.tick_params(labelbottom=True, labelleft=style.is_narrow() or axes is grid[0, 0])
    return figure


def class_distances(study: ReportData) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measures the geodesic distances of embeddings within and between classes.

    Returns:
      method -> (intra, inter) of all its seeds, float64 arrays in degrees, of the examples that
      the numbers are of.
    """
    sample = class_sample(study.labels, len(study.class_names))
    distances = {}
    for method, networks in style.by_method(study).items():
        pairs = [
            geodesic_distances(one.embedding[sample], study.labels[sample]) for one in networks
        ]
        distances[method] = tuple(
            np.rad2deg(np.concatenate(parts)) for parts in zip(*pairs, strict=True)
        )
    return distances


def geodesic(
    study: ReportData, rows: style.Rows, distances: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Draws the geodesic distances of embeddings within and between classes.

    Args:
      study: with at least one network.
      rows: the numbers of its methods.
      distances: from `class_distances`, with pairs of both kinds.

    Returns:
      A figure with a row for each method, the means of both kinds marked and written down.
    """
    look = style.looks(study)
    figure = style.plot(9.5, 1.2 + style.row_height(0.55) * len(distances))
    axes = figure.subplots()
    edges = np.linspace(0.0, 180.0, _BINS + 1)
    for row, (method, parts) in enumerate(distances.items()):
        color, base = look[method].color, row + 0.42
        shapes = [np.histogram(part, edges, density=True)[0] for part in parts]
        # On narrow pages there is text between the rows.
        unit = (0.6 if style.is_narrow() else 0.85) / max(shape.max() for shape in shapes)
        for part, shape, filled in zip(parts, shapes, (True, False), strict=True):
            axes.stairs(
                base - unit * shape,
                edges,
                baseline=base,
                fill=filled,
                color=color,
                alpha=0.6 if filled else 1.0,
                linewidth=1.5,
            )
            axes.plot([part.mean()] * 2, [base, base - 0.3], color=style.ink(), linewidth=1.6)
        intra, inter = (
            style.as_text(rows[method].scores[name], 1)
            for name in ("geodesic_intra", "geodesic_inter")
        )
        style.at_right(axes, row, f"one {intra}°,  two {inter}°")
    style.name_rows(axes, list(distances))
    far = max(np.percentile(inter, 99.9) for _, inter in distances.values())
    axes.set(xlim=(0.0, min(180.0, 1.05 * far)), xlabel="geodesic distance of two embeddings (°)")
    handles = [
        Patch(facecolor=style.ink(), alpha=0.6, label="of one class"),
        Patch(facecolor="none", edgecolor=style.ink(), label="of two classes"),
        Line2D([], [], color=style.ink(), label="mean"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2 if style.is_narrow() else 3)
    return figure
