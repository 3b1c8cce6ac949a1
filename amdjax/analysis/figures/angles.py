"""Figures of angles: within attention maps, and between embeddings."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from amdjax.analysis.angles import geodesic_distances
from amdjax.analysis.figures import style
from amdjax.analysis.scores import class_sample
from amdjax.analysis.study import Study

_BINS = 90  # of two degrees


def map_angles(study: Study) -> Figure:
    """Draws the distribution of the angle between positive and negative map, for each level.

    Args:
      study: with at least one network.

    Returns:
      A figure with a panel for each level, and in it a row for each method's first seed, its median
      marked.
    """
    networks, look = style.firsts(study), style.looks(study)
    places = list(networks[0].angles)
    figure = Figure(figsize=(style.WIDTH, 1.0 + 0.36 * len(networks)))
    grid = figure.subplots(1, len(places), squeeze=False, sharey=True)[0]
    for axes, place in zip(grid, places, strict=True):
        violins = axes.violinplot(
            [network.angles[place] for network in networks],
            range(len(networks)),
            orientation="horizontal",
            widths=0.85,
            showextrema=False,
            showmedians=True,
        )
        for body, network in zip(violins["bodies"], networks, strict=True):
            body.set(facecolor=look[network.method].color, alpha=0.75, linewidth=0)
        violins["cmedians"].set(color=style.ink(), linewidth=1.2)
        axes.set(title=place, xlabel="angle of positive and negative map (°)")
        style.name_rows(axes, [network.method for network in networks])
    return figure


def class_distances(study: Study) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Measures the geodesic distances of embeddings within and between classes.

    Returns:
      method -> (intra, inter) of its first seed, float64 arrays in degrees, of the examples that
      the numbers are of.
    """
    sample = class_sample(study.labels, len(study.class_names))
    return {
        network.method: tuple(
            np.rad2deg(part)
            for part in geodesic_distances(network.embedding[sample], study.labels[sample])
        )
        for network in style.firsts(study)
    }


def geodesic(
    study: Study, rows: style.Rows, distances: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Draws the geodesic distances of embeddings within and between classes.

    Args:
      study: with at least one network.
      rows: the numbers of its methods.
      distances: from `class_distances`, with pairs of both kinds.

    Returns:
      A figure with a row for each method; means are marked, and those over the seeds written down.
    """
    look = style.looks(study)
    figure = Figure(figsize=(9.5, 1.2 + 0.55 * len(distances)))
    axes = figure.subplots()
    edges = np.linspace(0.0, 180.0, _BINS + 1)
    for row, (method, parts) in enumerate(distances.items()):
        color, base = look[method].color, row + 0.42
        shapes = [np.histogram(part, edges, density=True)[0] for part in parts]
        unit = 0.85 / max(shape.max() for shape in shapes)
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
        means = (rows[method].scores[name] for name in ("geodesic_intra", "geodesic_inter"))
        style.at_right(axes, row, "   ".join(f"{style.as_text(mean, 1)}°" for mean in means))
    style.name_rows(axes, list(distances))
    far = max(np.percentile(inter, 99.9) for _, inter in distances.values())
    axes.set(xlim=(0.0, min(180.0, 1.05 * far)), xlabel="geodesic distance of two embeddings (°)")
    handles = [
        Patch(facecolor=style.ink(), alpha=0.6, label="of one class"),
        Patch(facecolor="none", edgecolor=style.ink(), label="of two classes"),
        Line2D([], [], color=style.ink(), label="their means, at the right in numbers"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
