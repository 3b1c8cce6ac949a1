"""Figures of attention maps and Grad-CAM, and of the distance to the teacher's attention maps."""

import itertools
import math
from typing import NamedTuple

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amdjax.analysis.gradcam import COLORS, overlay, to_unit, upsample
from amdjax.report.figures import style
from amdjax.report.report_data import LEVELS, ReportData
from amdjax.report.summary import Stat

_MAX_TILES = 240  # in one figure: with many networks fewer images are drawn
_CLASS_LETTERS = 11  # of a class name
_PER_BLOCK = 15  # largest number of columns side by side, without the images
_INCHES = 0.8  # largest side of a tile
_PIXELS = 96  # side of a tile
# Lengths in the unit of a tile's side.
_GAP = 0.07  # between tiles
_NOTE = 0.26  # below a tile
_LEVEL_GAP = 0.3
_NAMES = 1.15  # left of the images
_LINE = 0.22  # of a heading
_COLOR_BAR = 0.6
_MIN_INCHES = 6.0  # width of a figure, for the text of the colour bar
_LABEL_LETTERS = 9  # of a method's label in one line of a heading


class _Column(NamedTuple):
    """A column of tiles.

    Attributes:
      level: the layer's level, with the size of its maps.
      name: the method.
      tiles: float [K,P,P,3], in [0, 1].
      notes: text below each tile, or "".
      wrong: bool [K], whether the note is a wrong prediction.
    """

    level: str
    name: str
    tiles: np.ndarray
    notes: tuple[str, ...]
    wrong: np.ndarray


def num_images(report: ReportData) -> int:
    """Returns the number of sample images in the figures of maps."""
    columns = len(report.first_seeds) * len(_layers(report))
    return min(len(report.samples), max(1, _MAX_TILES // max(1, columns)))


def attention_maps(report: ReportData) -> Figure:
    """Draws the attention maps of the sample images: rows are images, columns are networks.

    The number below a student's map is its cosine with the teacher's map.

    Args:
      report: with at least one sample and one network.

    Returns:
      A figure with a group of columns for each level.
    """
    count = num_images(report)
    color_map = mpl.colormaps[COLORS]
    columns = []
    for layer in _layers(report):
        for network in report.first_seeds:
            maps = network.maps[layer][:count]
            tiles = color_map(_resize(np.asarray(to_unit(maps))))[..., :3]
            notes = ("",) * count
            if layer in network.similarity:
                cosines = network.similarity[layer][report.samples[:count]]
                notes = tuple(f"{cosine:.2f}" for cosine in cosines)
            wrong = np.zeros(count, bool)
            columns.append(_Column(_level(layer, maps), network.label, tiles, notes, wrong))
    colors = color_map(np.linspace(0, 1, 256))[None, :, :3]
    return _draw_sheet(
        report, columns, colors, "attention, from the minimum to the maximum of each map"
    )


def grad_cams(report: ReportData) -> Figure:
    """Draws Grad-CAM of the predicted class over the sample images, with that class below.

    Args:
      report: with at least one sample and one network.

    Returns:
      A figure with the layout of `attention_maps`.
    """
    count = num_images(report)
    labels = report.labels[report.samples[:count]]
    images = _resize(report.images[:count] / 255.0)
    columns = []
    for layer in _layers(report):
        for network in report.first_seeds:
            cams = network.cams[layer][:count]
            heat = np.asarray(to_unit(upsample(cams, (_PIXELS, _PIXELS))))
            tiles = overlay(images, heat)
            predicted = network.logits[report.samples[:count]].argmax(-1)
            notes = tuple(
                style.short_class_name(report, label, _CLASS_LETTERS) for label in predicted
            )
            wrong = predicted != labels
            columns.append(_Column(_level(layer, cams), network.label, tiles, notes, wrong))
    background = np.stack([np.zeros((256, 3)), np.ones((256, 3))])  # a black and a white image
    colors = overlay(background, np.stack([np.linspace(0, 1, 256)] * 2))
    return _draw_sheet(
        report, columns, colors, "Grad-CAM, from the minimum to the maximum of each map"
    )


def _level(layer: str, maps: np.ndarray) -> str:
    return f"{LEVELS[layer]}, {maps.shape[1]}×{maps.shape[2]}"


def _layers(report: ReportData) -> list[str]:
    return list(report.networks[0].maps) if report.networks else []


def _resize(tiles: np.ndarray) -> np.ndarray:
    """Resizes float [K,h,w] or [K,h,w,3], in [0, 1], to the size of a tile.

    Smaller images are enlarged without interpolation.
    """
    count, height, width, *channels = tiles.shape
    if max(height, width) > _PIXELS:
        shape = (count, _PIXELS, _PIXELS, *channels)
        return np.clip(jax.image.resize(tiles.astype(np.float32), shape, "linear"), 0.0, 1.0)
    rows, columns = (np.arange(_PIXELS) * side // _PIXELS for side in (height, width))
    return tiles[:, rows[:, None], columns]


def _blocks(columns: list[_Column]) -> list[list[_Column]]:
    """Groups columns into blocks that are as wide as the page: all in one, or each level alone."""
    if len(columns) <= _PER_BLOCK:
        return [columns]
    blocks = []
    for _, level in itertools.groupby(columns, key=lambda column: column.level):
        level = list(level)
        most = math.ceil(len(level) / math.ceil(len(level) / _PER_BLOCK))
        blocks += [level[i : i + most] for i in range(0, len(level), most)]
    return blocks


def _draw_sheet(
    report: ReportData, columns: list[_Column], colors: np.ndarray, color_label: str
) -> Figure:
    """Draws blocks of columns below each other, then the colour bar.

    Coordinates are in the unit of a tile's side, from the top left corner.
    """
    count = len(columns[0].tiles)
    pitch = 1.0 + _GAP + _NOTE
    heading = _LINE * (2.0 + _heading_lines(columns))
    blocks = _blocks(columns)
    lefts = [_left_edges(block) for block in blocks]
    width = max(edges[-1] + 1.0 + _GAP for edges in lefts)
    width = max(width, _MIN_INCHES / _INCHES)
    block_height = heading + count * pitch + 2 * _GAP
    height = len(blocks) * block_height + _COLOR_BAR
    inches = min(_INCHES, style.PAGE_WIDTH / width)
    figure = Figure(figsize=(inches * width, inches * height), layout="none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for index, (block, edges) in enumerate(zip(blocks, lefts, strict=True)):
        _draw_block(axes, report, block, edges, index * block_height + heading, pitch)
    _draw_color_bar(axes, colors, color_label, height - 0.38)
    axes.set(xlim=(0.0, width), ylim=(height, 0.0), aspect="auto")
    axes.axis("off")
    return figure


def _left_edges(block: list[_Column]) -> list[float]:
    """Returns the left edges of the images and of each column."""
    edges = [_NAMES]
    for previous, column in zip([None, *block[:-1]], block, strict=True):
        same = previous is not None and previous.level == column.level
        edges.append(edges[-1] + 1.0 + (_GAP if same else _LEVEL_GAP))
    return edges


def _draw_block(
    axes: Axes,
    report: ReportData,
    block: list[_Column],
    lefts: list[float],
    top: float,
    pitch: float,
) -> None:
    count = len(block[0].tiles)
    samples = report.samples[:count]
    names = [
        f"{style.short_class_name(report, label, _CLASS_LETTERS)}\nno. {index}"
        for index, label in zip(samples, report.labels[samples], strict=True)
    ]
    images = _resize(report.images[:count] / 255.0)
    _draw_heading(axes, "image", lefts[0] + 0.5, top)
    for row, name in enumerate(names):
        position = {"x": _NAMES - 0.1, "y": top + row * pitch + 0.5}
        axes.text(**position, s=name, ha="right", va="center", fontsize=8, parse_math=False)
        _draw_tile(axes, images[row], lefts[0], top + row * pitch)
    edges = lefts[1:]
    for column, left in zip(block, edges, strict=True):
        _draw_heading(axes, style.wrapped_label(column.name, _LABEL_LETTERS), left + 0.5, top)
        for row, tile in enumerate(column.tiles):
            _draw_tile(axes, tile, left, top + row * pitch)
        for row, note in enumerate(column.notes):
            note = f"✗ {note}" if column.wrong[row] else note
            axes.text(
                left + 0.5,
                top + row * pitch + 1.03,
                note,
                ha="center",
                va="top",
                parse_math=False,
                fontsize=7.5 * min(1.0, _LABEL_LETTERS / max(1, len(note))),
                color=style.ERROR if column.wrong[row] else style.INK,
                fontweight="bold" if column.wrong[row] else "normal",
            )
    columns = zip(block, edges, strict=True)
    for level, group in itertools.groupby(columns, key=lambda pair: pair[0].level):
        group_edges = [left for _, left in group]
        middle = (group_edges[0] + group_edges[-1] + 1.0) / 2
        y = top - _LINE * (_heading_lines(block) + 0.7)
        axes.text(middle, y, level, ha="center", fontsize=10)


def _heading_lines(columns: list[_Column]) -> int:
    """Returns the number of lines of the longest heading."""
    return 1 + max(
        style.wrapped_label(column.name, _LABEL_LETTERS).count("\n") for column in columns
    )


def _draw_heading(axes: Axes, text: str, middle: float, top: float) -> None:
    """Draws each line as a text, since descenders would move the baseline of a whole text."""
    lines = text.split("\n")
    size = 8.0 * min(1.0, _LABEL_LETTERS / max(map(len, lines)))
    for row, line in enumerate(reversed(lines)):
        axes.text(middle, top - 0.1 - _LINE * row, line, ha="center", fontsize=size)


def _draw_tile(axes: Axes, tile: np.ndarray, left: float, top: float) -> None:
    axes.imshow(tile, extent=(left, left + 1.0, top + 1.0, top), interpolation="antialiased")


def _draw_color_bar(axes: Axes, colors: np.ndarray, text: str, top: float) -> None:
    """Draws the colours [h,w,3], from the minimum to the maximum."""
    axes.imshow(colors, extent=(_NAMES, _NAMES + 1.5, top + 0.24, top), interpolation="nearest")
    axes.text(_NAMES + 1.6, top + 0.12, text, va="center", fontsize=8.5)


def distances(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the distance of each student's attention maps to the teacher's, for each level.

    Args:
      report: of the networks.
      summaries: of its methods, at least one of them with `similarity`.

    Returns:
      A figure of two rows, mean cosine and AM loss; bars are means over the seeds, error bars are
      standard deviations.
    """
    compared = {method: summary for method, summary in summaries.items() if summary.similarity}
    layers = list(
        dict.fromkeys(layer for summary in compared.values() for layer in summary.similarity)
    )
    height = 0.85 + 0.27 * len(compared)
    figure, grid = style.level_panels(len(layers), 2, height, sharey=True)
    for (cosine, am), layer in zip(grid, layers, strict=True):
        similarity = {method: summary.similarity.get(layer) for method, summary in compared.items()}
        _draw_bars(cosine, report, similarity, 0)
        cosine.set(title=style.level_title(layer), xlabel="mean cosine")
        cosine.set(xlim=(0.0, 1.0), xticks=np.linspace(0.0, 1.0, 5))
        losses = {method: summary.am_distance.get(layer) for method, summary in compared.items()}
        # The AM losses of the levels differ by orders of magnitude.
        largest = max(stat.mean for stat in losses.values() if stat is not None)
        exponent = int(np.floor(np.log10(largest))) if largest > 0 else 0
        _draw_bars(am, report, losses, exponent)
        am.set(title=style.level_title(layer), xlabel=f"AM loss / $10^{{{exponent}}}$")
    return figure


def _draw_bars(
    axes: Axes, report: ReportData, stats: dict[str, Stat | None], exponent: int
) -> None:
    """Draws a bar for each method, in units of a power of ten; none for missing values."""
    styles, factor = style.method_styles(report), 10.0**-exponent
    for row, (method, stat) in enumerate(stats.items()):
        if stat is None:
            continue
        mean, std = factor * stat.mean, factor * (stat.std or 0.0)
        color = styles[method].color
        axes.barh(row, mean, 0.7, color=color, xerr=std or None, ecolor=style.INK, capsize=2)
        style.annotate_row(axes, row, style.stat_text(stat, 3, factor))
    style.label_rows(axes, list(stats))
