"""The style of the figures: colours, fonts, grids of panels, and the labels of methods."""

import contextlib
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D

from amdjax.metrics import format_stat
from amdjax.report.report_data import LEVELS, ReportData
from amdjax.report.summary import MethodSummary, Stat

Summaries = dict[str, MethodSummary]  # by label, in the order of the report

PAGE_WIDTH = 11.0  # inches, of the widest figure
CYCLE = 6  # methods with different colours; later ones reuse the colours with other line styles
INK = "#1f2328"
PAPER = "#ffffff"
ERROR = "#B04A00"
_FAINT = "#d8dde3"
# The palette of Okabe and Ito, which is safe for all kinds of colour vision, without black, the
# teacher's colour, and without yellow, which is invisible on white.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
_FIXED = ("scratch", "kd", "amd_g", "amd_gl")  # have the first colours in every report
# Each method has one of the first five lines and markers until all their pairs with a colour are
# taken, then one of the other five.
_LINES = (
    *("-", (0, (5, 2)), (0, (1, 1.3)), (0, (6, 2, 1, 2)), (0, (8, 2, 1, 2, 1, 2))),
    *((0, (12, 2)), (0, (3, 1)), (0, (1, 3)), (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1, 1, 1))),
)
_MARKERS = ("o", "s", "^", "D", "v", "p", "X", "<", "h", ">")
_TURNS = 5
_CLASS_MARKERS = ("o", "^")
_TERMS = {"angular": "A", "positive": "P", "negative": "N"}  # of the AM loss
MAX_CLASSES = 10 * len(_CLASS_MARKERS)  # with different `class_style`

_SETTINGS = {
    "figure.dpi": 144,  # sharp on screens with 1.5 pixels per CSS pixel
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": _FAINT,
    "grid.color": _FAINT,
    "legend.frameon": False,
    "font.family": ["DejaVu Sans"],  # part of matplotlib, so all machines draw the same figures
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


class MethodStyle(NamedTuple):
    """The style of a method in every figure."""

    color: str
    linestyle: str | tuple
    marker: str


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """Sets Matplotlib's parameters for creating and drawing the figures of a report."""
    with mpl.rc_context(_SETTINGS):
        yield


def method_styles(report: ReportData) -> dict[str, MethodStyle]:
    """Returns the style of each method with its swept value."""
    return styles_of({network.label: network.is_teacher for network in report.first_seeds})


def styles_of(methods: Mapping[str, bool]) -> dict[str, MethodStyle]:
    """Returns the style of each method.

    Teachers have the colour of text, some common methods fixed colours, and the other methods the
    remaining colours in turn.

    Args:
      methods: name -> whether it is a teacher.
    """
    styles: dict[str, MethodStyle] = {}
    fixed = {name: _FIXED.index(name) for name in methods if name in _FIXED}
    free = (rank for rank in itertools.count() if rank not in fixed.values())
    teachers = itertools.count()
    for name, is_teacher in methods.items():
        if is_teacher:
            turn = next(teachers) % len(_LINES)
            styles[name] = MethodStyle(INK, _LINES[turn], "P*"[turn % 2])
        else:
            rank = fixed[name] if name in fixed else next(free)
            # Lines of the same colour differ in their dashes, and so do consecutive methods, whose
            # lines may cover each other.
            turn = (rank + rank // CYCLE) % _TURNS + _TURNS * (rank // (CYCLE * _TURNS))
            turn %= len(_LINES)
            color = _COLORS[rank % CYCLE]
            styles[name] = MethodStyle(color, _LINES[turn], _MARKERS[turn])
    return styles


def class_style(rank: int) -> tuple[tuple[float, float, float], str]:
    """Returns colour and marker of one of at most `MAX_CLASSES` classes.

    The colours are Petroff's (Accessible color sequences for data visualization, 2021).
    """
    colors = mpl.color_sequences["petroff10"]
    return colors[rank % 10], _CLASS_MARKERS[rank // 10]


def columns(count: int, width: float, most: int) -> int:
    """Returns the number of columns of a grid of panels whose last row is nearly full.

    Args:
      count: number of panels, at least 1.
      width: of a panel in inches; it may shrink to 0.7 of it.
      most: largest number of columns.
    """
    fitting = min(most, max(1, int(PAGE_WIDTH / (0.7 * width))))
    return math.ceil(count / math.ceil(count / fitting))


def panels(count: int, width: float, ratio: float, most: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a grid of panels.

    Args:
      count: number of panels, at least 1; the rest of the last row is empty.
      width: largest width of a panel in inches.
      ratio: of a panel's height to its width.
      most: largest number of columns.

    Returns:
      (figure, its axes by rows).
    """
    side_by_side = columns(count, width, most)
    rows = math.ceil(count / side_by_side)
    width = min(width, PAGE_WIDTH / side_by_side)
    figure = Figure(figsize=(width * side_by_side, width * ratio * rows))
    grid = figure.subplots(rows, side_by_side, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def level_panels(
    levels: int, rows: int, height: float, **shared: bool
) -> tuple[Figure, np.ndarray]:
    """Returns a figure with a column of panels for each level.

    Args:
      levels: number of levels.
      rows: number of panels of each level.
      height: of a panel in inches.
      **shared: `sharex` or `sharey` of all panels.

    Returns:
      (figure, its axes [levels,rows]).
    """
    figure = Figure(figsize=(PAGE_WIDTH, height * rows))
    return figure, figure.subplots(rows, levels, squeeze=False, **shared).T


def stat_text(stat: Stat, digits: int, factor: float = 1.0) -> str:
    """Returns "mean ± standard deviation" of a quantity, or the value of a single seed.

    Args:
      stat: over the seeds of a method.
      digits: after the decimal point.
      factor: multiplies the values, for instance 100 for per cent.
    """
    return format_stat([factor * value for value in stat.values], digits)


def first_seed_text(stat: Stat, digits: int, factor: float = 1.0) -> str:
    """Returns the value of the first seed, with `stat_text` of several seeds in a second line.

    Args:
      stat: over the seeds of a method.
      digits: after the decimal point.
      factor: multiplies the values.
    """
    first = f"{factor * stat.values[0]:.{digits}f}"
    return first if stat.std is None else f"{first}\n({stat_text(stat, digits, factor)})"


def label_rows(axes: Axes, methods: list[str]) -> None:
    """Labels horizontal rows at y = 0, 1, ... with methods, from top to bottom."""
    axes.set_yticks(range(len(methods)), [short_label(method) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def annotate_row(axes: Axes, row: int, text: str) -> None:
    """Writes a text to the right of a row of `label_rows`, outside of the axes."""
    axes.text(1.02, row, text, va="center", fontsize=9, transform=axes.get_yaxis_transform())


def level_title(layer: str) -> str:
    """Returns the title of a layer's panel, "low level (stage1)"."""
    return f"{LEVELS[layer]} level ({layer})"


def short_label(method: str) -> str:
    """Returns a method's label with the AMD paper's letters for the swept terms of the AM loss."""
    name, equals, words = method.partition(".terms=")
    return name + equals + "+".join(_TERMS.get(word, word) for word in words.split("+"))


def wrapped_label(method: str, width: int = 22) -> str:
    """Returns a method's label in lines of at most `width` letters, broken after "_+=-", "am."."""
    lines = [""]
    for part in re.split(r"(?<=[_+=-])|(?<=[a-z]\.)", short_label(method)):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def class_name(report: ReportData, label: int) -> str:
    """Returns the name of a class, without the WordNet number of ImageNet's class names."""
    return re.sub(r"^n\d{8} ", "", report.class_names[label])


def short_class_name(report: ReportData, label: int, length: int) -> str:
    """Returns the name of a class, cut to a number of letters, for a figure.

    A name that the font of the figures does not have, such as a Chinese one, is "class 3".
    """
    name = class_name(report, label)
    if not _letters().issuperset(map(ord, name)):
        return f"class {label}"
    return name if len(name) <= length else name[: length - 1] + "…"


@functools.cache
def _letters() -> frozenset[int]:
    """Returns the code points of the letters of the figures' font."""
    font = get_font(findfont(FontProperties(family=_SETTINGS["font.family"])))
    return frozenset(font.get_charmap())


def legend_columns(methods: list[str], width: float) -> int:
    """Returns the number of columns of a legend with a width in inches."""
    widest = 0.7 + 0.085 * max(len(short_label(method)) for method in methods)
    return max(1, min(len(methods), int(width / widest)))


def add_legend(
    figure: Figure, report: ReportData, methods: list[str], with_marker: bool = False
) -> None:
    """Adds a legend of methods below a figure, and increases the figure's height by as much."""
    styles = method_styles(report)
    handles = [
        Line2D(
            [],
            [],
            color=styles[method].color,
            linestyle="none" if with_marker else styles[method].linestyle,
            marker=styles[method].marker if with_marker else None,
            label=short_label(method),
        )
        for method in methods
    ]
    fitting = legend_columns(methods, figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 0.21 * math.ceil(len(methods) / fitting))
    figure.legend(handles=handles, loc="outside lower center", ncols=fitting)
