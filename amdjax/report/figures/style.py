"""How figures look: colours, type, and the grids that panels stand in."""

import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amdjax.report.report_data import LEVELS, Network, ReportData
from amdjax.report.summary import Row, Score

Rows = dict[str, Row]  # by method, in the order of the study

WIDTHS = {"wide": 11.0, "narrow": 4.0}  # inches, of the widest figure of a page
THEMES = ("light", "dark")
CYCLE = 6  # methods that have a colour of their own; those behind share it and have another line
_PAPER = {"light": "#ffffff", "dark": "#15181c"}  # the page's own background, see page.html
_INK = {"light": "#1f2328", "dark": "#e6e8eb"}
_WRONG = {"light": "#B04A00", "dark": "#FF8F4D"}
_FAINT = {"light": "#d8dde3", "dark": "#3a4048"}
# Okabe and Ito's set for all kinds of colour vision, without black, which is the teacher's, and
# without yellow, which cannot be seen on white.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_OWN = ("scratch", "kd", "amd_g", "amd_gl")  # have the first colours, in any report
_LINES = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (8, 2, 1, 2, 1, 2)))
_MARKERS = ("o", "s", "^", "D", "v")
_CLASS_MARKERS = ("o", "^")
_TERMS = {"angular": "A", "positive": "P", "negative": "N"}  # of the AM loss
MAX_CLASSES = 10 * len(_CLASS_MARKERS)  # that `class_look` tells apart


class Look(NamedTuple):
    """What a method has in every figure."""

    color: str
    linestyle: str | tuple
    marker: str


@contextlib.contextmanager
def theme(name: str, width: str = "wide") -> Iterator[None]:
    """Within it, figures are made and drawn for a light or a dark page.

    Args:
      name: one of `THEMES`.
      width: one of `WIDTHS`, of a screen or of a telephone.
    """
    ink, faint, paper = _INK[name], _FAINT[name], _PAPER[name]
    settings = {
        "figure.figsize": (WIDTHS[width], WIDTHS[width]),
        "figure.dpi": 144,  # sharp on screens of 1.5 pixels to a CSS pixel
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.edgecolor": faint,
        "grid.color": faint,
        "legend.facecolor": paper,
        "legend.frameon": False,
        "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that all machines draw the same
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 9,
        "legend.handlelength": 3.0,  # long enough for every dash pattern
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "hatch.linewidth": 0.7,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
    }
    with mpl.rc_context(settings):
        yield


def page_width() -> float:
    """Returns the width of the widest figure in the present theme, in inches."""
    return mpl.rcParams["figure.figsize"][0]


def page() -> str:
    """Returns the kind of page of the present theme, one of `WIDTHS`."""
    return next(name for name, inches in WIDTHS.items() if inches == page_width())


def is_narrow() -> bool:
    """Returns whether figures are made for a telephone."""
    return page() == "narrow"


def paper() -> str:
    """Returns the colour of the background in the present theme."""
    return mpl.rcParams["figure.facecolor"]


def ink() -> str:
    """Returns the colour of text in the present theme."""
    return mpl.rcParams["text.color"]


def wrong() -> str:
    """Returns the colour of text about mistakes in the present theme."""
    return _WRONG["light" if paper() == _PAPER["light"] else "dark"]


def by_method(study: ReportData) -> dict[str, tuple[Network, ...]]:
    """Returns the networks of each method, one for each seed, in the order of the study."""
    groups: dict[str, list[Network]] = {}
    for network in study.networks:
        groups.setdefault(network.method, []).append(network)
    return {method: tuple(networks) for method, networks in groups.items()}


def firsts(study: ReportData) -> tuple[Network, ...]:
    """Returns the network of each method's first seed."""
    return tuple(networks[0] for networks in by_method(study).values())


def looks(study: ReportData) -> dict[str, Look]:
    """Returns the look of each method.

    The teachers have the colour of text, the methods of most reports always the same one, and the
    others in turn what is left.
    """
    table: dict[str, Look] = {}
    kept = {one.method: _OWN.index(one.method) for one in firsts(study) if one.method in _OWN}
    left = (rank for rank in itertools.count() if rank not in kept.values())
    teachers = itertools.count()
    for network in firsts(study):
        if network.is_teacher:
            turn = next(teachers) % len(_LINES)
            table[network.method] = Look(ink(), _LINES[turn], "P*"[turn % 2])
        else:
            rank = kept[network.method] if network.method in kept else next(left)
            # Lines of one colour differ in their dashes, and so do neighbours, which may cover
            # each other.
            turn = (rank + rank // CYCLE) % len(_LINES)
            table[network.method] = Look(_COLORS[rank % CYCLE], _LINES[turn], _MARKERS[turn])
    return table


def class_look(rank: int) -> tuple[tuple[float, float, float], str]:
    """Returns colour and marker of one of at most `MAX_CLASSES` classes.

    The colours are Petroff's (Accessible color sequences for data visualization, 2021).
    """
    colors = mpl.color_sequences["petroff10"]
    return colors[rank % 10], _CLASS_MARKERS[rank // 10]


def columns(count: int, width: float, most: int) -> int:
    """Returns how many panels stand side by side, so that the last row is nearly full.

    Args:
      count: of panels, at least 1.
      width: of a panel in inches; it may shrink to 0.7 of it.
      most: panels side by side.
    """
    fitting = min(most, max(1, int(page_width() / (0.7 * width))))
    return math.ceil(count / math.ceil(count / fitting))


def plot(width: float, height: float) -> Figure:
    """Returns a figure of some inches, on a narrow page no wider than that."""
    return Figure(figsize=(min(width, page_width()), height))


def level_panels(
    levels: int, kinds: int, height: float, **shared: bool
) -> tuple[Figure, np.ndarray]:
    """Returns a figure with panels for each level: side by side, or on a narrow page in a column.

    Args:
      levels: how many.
      kinds: panels of each level, below one another.
      height: of a panel in inches.
      **shared: `sharex` or `sharey` of all panels.

    Returns:
      (figure, its axes [levels,kinds]).
    """
    rows = kinds * levels if is_narrow() else kinds
    figure = plot(page_width(), height * rows)
    grid = figure.subplots(rows, kinds * levels // rows, squeeze=False, **shared)
    return figure, grid.reshape(levels, kinds) if is_narrow() else grid.T


def panels(count: int, width: float, ratio: float, most: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a grid of panels, the last of which may be left out.

    Args:
      count: of panels, at least 1.
      width: of a panel in inches, at most.
      ratio: of its height to its width.
      most: panels side by side.

    Returns:
      (figure, its axes by rows).
    """
    side_by_side = columns(count, width, most)
    rows = math.ceil(count / side_by_side)
    width = min(width, page_width() / side_by_side)
    figure = Figure(figsize=(width * side_by_side, width * ratio * rows))
    grid = figure.subplots(rows, side_by_side, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def as_text(score: Score, digits: int, factor: float = 1.0) -> str:
    """Writes a quantity as "mean ± standard deviation", or the mean alone of a single seed.

    Args:
      score: over the seeds of a method.
      digits: behind the point.
      factor: by which it is multiplied, for instance 100 for per cent.

    Returns:
      Text such as "96.9 ± 0.2".
    """
    mean = f"{factor * score.mean:.{digits}f}"
    return mean if score.std is None else f"{mean} ± {factor * score.std:.{digits}f}"


def of_first(score: Score, digits: int, factor: float = 1.0) -> str:
    """Writes the first seed's value where that seed is drawn; of several the mean stands below.

    Args:
      score: over the seeds of a method.
      digits: see `as_text`.
      factor: see `as_text`.
    """
    first = f"{factor * score.values[0]:.{digits}f}"
    return first if score.std is None else f"{first}\n({as_text(score, digits, factor)})"


def row_height(inches: float) -> float:
    """Returns how high a row of `name_rows` is: on narrow pages there is text between them."""
    return max(inches, 0.48) if is_narrow() else inches


def name_rows(axes: Axes, methods: list[str]) -> None:
    """Names horizontal rows at y = 0, 1, ..., the first at the top."""
    names = [wrapped(method, 12) if is_narrow() else short(method) for method in methods]
    axes.set_yticks(range(len(methods)), names)
    axes.set_ylim(len(methods) - 0.4, -0.75 if is_narrow() else -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def at_right(axes: Axes, row: int, text: str) -> None:
    """Writes behind a row of `name_rows`, outside of the axes; above it on a narrow page."""
    position = {"transform": axes.get_yaxis_transform(), "fontsize": 9}
    if is_narrow():
        axes.text(1.0, row - 0.37, text, ha="right", va="bottom", **position)
    else:
        axes.text(1.02, row, text, va="center", **position)


def level(layer: str) -> str:
    """Returns the name of a layer whose maps are looked at, "low level (stage1)"."""
    return f"{LEVELS[layer]} level ({layer})"


def short(method: str) -> str:
    """Returns a method's name with the letters of the AMD paper for the terms that were swept."""
    name, equals, words = method.partition("-terms=")
    return name + equals + "+".join(_TERMS.get(word, word) for word in words.split("+"))


def class_name(study: ReportData, label: int) -> str:
    """Returns a class's name without the number in WordNet that ImageNet's have before it."""
    return re.sub(r"^n\d{8} ", "", study.class_names[label])


def wrapped(method: str, width: int = 22) -> str:
    """Breaks a method's name into lines behind "_+=-", each at most so long if it can be."""
    lines = [""]
    for part in re.split(r"(?<=[_+=-])", short(method)):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def legend_columns(methods: list[str], width: float) -> int:
    """Returns how many names of methods stand side by side in a legend of some inches."""
    widest = 0.7 + 0.085 * max(len(short(method)) for method in methods)
    return max(1, min(len(methods), int(width / widest)))


def legend(
    figure: Figure, study: ReportData, methods: list[str], with_marker: bool = False
) -> None:
    """Names methods below a figure, which grows by as much."""
    look = looks(study)
    handles = [
        Line2D(
            [],
            [],
            color=look[method].color,
            linestyle="none" if with_marker else look[method].linestyle,
            marker=look[method].marker if with_marker else None,
            label=short(method),
        )
        for method in methods
    ]
    fitting = legend_columns(methods, figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(len(methods) / fitting))
    figure.legend(handles=handles, loc="outside lower center", ncols=fitting)
