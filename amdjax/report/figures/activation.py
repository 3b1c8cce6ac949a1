"""Figures of where networks look: attention maps, Grad-CAM, and their distance to the teacher."""

import itertools
import math
from typing import NamedTuple

import jax
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amdjax.analysis.gradcam import overlay, to_unit, upsample
from amdjax.report.figures import style
from amdjax.report.report_data import LEVELS, ReportData
from amdjax.report.summary import Score

_TILES = 240  # in one figure, at most: of many networks fewer images are shown
_PER_LINE = {"wide": 15, "narrow": 5}  # tiles side by side, without the image
_INCHES = 0.8  # of a tile's side, at most
_PIXELS = 96  # of a tile's side
_GAP = 0.07  # between tiles, in tiles, as all that follows
_NOTE = 0.26  # below a tile that has a note
_LEVEL_GAP = 0.3
_NAMES = 1.15  # left of the images
_LINE = 0.22  # of a heading
_SCALE = 0.6
_LEAST_INCHES = {"wide": 6.0, "narrow": 4.0}  # of a figure's width, that the scale needs
_LETTERS = {"wide": 9, "narrow": 6}  # of a name, in one line of a heading
_COLORS = "inferno"  # as those of `overlay`


class _Column(NamedTuple):
    """What stands below one heading.

    Attributes:
      level: the place in the network, with the size of its maps.
      name: the method.
      tiles: float [K,P,P,3], from 0 to 1.
      notes: what stands below each tile, or "".
      wrong: bool [K], whether a note tells of a mistake.
    """

    level: str
    name: str
    tiles: np.ndarray
    notes: tuple[str, ...]
    wrong: np.ndarray


def images_shown(study: ReportData) -> int:
    """Returns how many of the images the figures of maps have room for."""
    columns = len(style.firsts(study)) * len(_layers(study))
    return min(len(study.shown), max(1, _TILES // max(1, columns)))


def attention_maps(study: ReportData) -> Figure:
    """Draws the attention maps of the shown images: rows are images, columns networks.

    Below each of a student's stands its cosine with the teacher's.

    Args:
      study: with at least one image and one network.

    Returns:
      A figure with a group of columns for each level, the teacher first.
    """
    count = images_shown(study)
    paint = mpl.colormaps[_COLORS]
    columns = []
    for layer in _layers(study):
        for network in style.firsts(study):
            maps = network.maps[layer][:count]
            tiles = paint(_resize(np.asarray(to_unit(maps))))[..., :3]
            notes = ("",) * count
            if layer in network.similarity:
                cosines = network.similarity[layer][study.shown[:count]]
                notes = tuple(f"{cosine:.2f}" for cosine in cosines)
            columns.append(
                _Column(_level(layer, maps), network.method, tiles, notes, np.zeros(count, bool))
            )
    colors = paint(np.linspace(0, 1, 256))[None, :, :3]
    return _sheet(
        study, columns, colors, "attention, each map from its least to its greatest value"
    )


def grad_cams(study: ReportData) -> Figure:
    """Draws what speaks for the predicted class, over the images, with that class below.

    Args:
      study: with at least one image and one network.

    Returns:
      A figure as of `attention_maps`.
    """
    count = images_shown(study)
    truth = study.labels[study.shown[:count]]
    images = _resize(study.images[:count] / 255.0)
    columns = []
    for layer in _layers(study):
        for network in style.firsts(study):
            cams = network.cams[layer][:count]
            heat = np.asarray(to_unit(upsample(cams, (_PIXELS, _PIXELS))))
            tiles = overlay(images, heat)
            predicted = network.logits[study.shown[:count]].argmax(-1)
            notes = tuple(_short(style.class_name(study, label)) for label in predicted)
            columns.append(
                _Column(_level(layer, cams), network.method, tiles, notes, predicted != truth)
            )
    ground = np.stack([np.zeros((256, 3)), np.ones((256, 3))])  # a black image and a white one
    colors = overlay(ground, np.stack([np.linspace(0, 1, 256)] * 2))
    return _sheet(study, columns, colors, "evidence, each map from its least to its greatest value")


def _level(layer: str, maps: np.ndarray) -> str:
    return f"{LEVELS[layer]}, {maps.shape[1]}×{maps.shape[2]}"


def _layers(study: ReportData) -> list[str]:
    return list(study.networks[0].maps) if study.networks else []


def _resize(tiles: np.ndarray) -> np.ndarray:
    """Brings float [K,h,w] or [K,h,w,3], from 0 to 1, to the size of a tile.

    Pixels that are enlarged stay squares.
    """
    count, height, width, *channels = tiles.shape
    if max(height, width) > _PIXELS:
        shape = (count, _PIXELS, _PIXELS, *channels)
        return np.clip(jax.image.resize(tiles.astype(np.float32), shape, "linear"), 0.0, 1.0)
    rows, columns = (np.arange(_PIXELS) * side // _PIXELS for side in (height, width))
    return tiles[:, rows[:, None], columns]


def _short(name: str, length: int = 11) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _lines(columns: list[_Column]) -> list[list[_Column]]:
    """Columns that stand side by side: all of them, or else those of one level, as many as fit."""
    fitting = _PER_LINE[style.page()]
    if len(columns) <= fitting:
        return [columns]
    lines = []
    for _, level in itertools.groupby(columns, key=lambda column: column.level):
        level = list(level)
        most = math.ceil(len(level) / math.ceil(len(level) / fitting))
        lines += [level[i : i + most] for i in range(0, len(level), most)]
    return lines


def _sheet(study: ReportData, columns: list[_Column], colors: np.ndarray, scale: str) -> Figure:
    """Lays tiles out exactly, in units of a tile, from the top."""
    count = len(columns[0].tiles)
    pitch = 1.0 + _GAP + _NOTE
    heading = _LINE * (2.0 + _heading_lines(columns))
    lines = _lines(columns)
    offsets = [_offsets(line) for line in lines]
    width = max(edges[-1] + 1.0 + _GAP for edges in offsets)
    width = max(width, _LEAST_INCHES[style.page()] / _INCHES)
    line_height = heading + count * pitch + 2 * _GAP
    height = len(lines) * line_height + _SCALE
    inches = min(_INCHES, style.page_width() / width)
    figure = Figure(figsize=(inches * width, inches * height), layout="none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for index, (line, at) in enumerate(zip(lines, offsets, strict=True)):
        _line(axes, study, line, at, index * line_height + heading, pitch)
    _scale(axes, colors, scale, height - 0.38)
    axes.set(xlim=(0.0, width), ylim=(height, 0.0), aspect="auto")
    axes.axis("off")
    return figure


def _offsets(line: list[_Column]) -> list[float]:
    """Left edges of the image and of each column."""
    edges = [_NAMES]
    for before, column in zip([None, *line[:-1]], line, strict=True):
        same = before is not None and before.level == column.level
        edges.append(edges[-1] + 1.0 + (_GAP if same else _LEVEL_GAP))
    return edges


def _line(
    axes: Axes,
    study: ReportData,
    line: list[_Column],
    offsets: list[float],
    top: float,
    pitch: float,
) -> None:
    count = len(line[0].tiles)
    shown = study.shown[:count]
    names = [
        f"{_short(style.class_name(study, label))}\nno. {number}"
        for number, label in zip(shown, study.labels[shown], strict=True)
    ]
    images = _resize(study.images[:count] / 255.0)
    _heading(axes, "image", offsets[0] + 0.5, top)
    for row, name in enumerate(names):
        position = {"x": _NAMES - 0.1, "y": top + row * pitch + 0.5}
        axes.text(**position, s=name, ha="right", va="center", fontsize=8, parse_math=False)
        _tile(axes, images[row], offsets[0], top + row * pitch)
    edges = offsets[1:]
    for column, left in zip(line, edges, strict=True):
        _heading(axes, style.wrapped(column.name, _LETTERS[style.page()]), left + 0.5, top)
        for row, tile in enumerate(column.tiles):
            _tile(axes, tile, left, top + row * pitch)
        for row, note in enumerate(column.notes):
            note = f"✗ {note}" if column.wrong[row] else note
            axes.text(
                left + 0.5,
                top + row * pitch + 1.03,
                note,
                ha="center",
                va="top",
                parse_math=False,
                fontsize=7.5 * min(1.0, _LETTERS[style.page()] / max(1, len(note))),
                color=style.wrong() if column.wrong[row] else style.ink(),
                fontweight="bold" if column.wrong[row] else "normal",
            )
    placed = zip(line, edges, strict=True)
    for level, group in itertools.groupby(placed, key=lambda pair: pair[0].level):
        lefts = [left for _, left in group]
        middle = (lefts[0] + lefts[-1] + 1.0) / 2
        axes.text(
            middle, top - _LINE * (_heading_lines(line) + 0.7), level, ha="center", fontsize=10
        )


def _heading_lines(columns: list[_Column]) -> int:
    """How many lines the longest heading has."""
    letters = _LETTERS[style.page()]
    return 1 + max(style.wrapped(column.name, letters).count("\n") for column in columns)


def _heading(axes: Axes, text: str, middle: float, top: float) -> None:
    """Line by line, since letters that reach below the line would lift the whole text."""
    words = text.split("\n")
    size = 8.0 * min(1.0, _LETTERS[style.page()] / max(map(len, words)))
    for row, line in enumerate(reversed(words)):
        axes.text(middle, top - 0.1 - _LINE * row, line, ha="center", fontsize=size)


def _tile(axes: Axes, tile: np.ndarray, left: float, top: float) -> None:
    axes.imshow(tile, extent=(left, left + 1.0, top + 1.0, top), interpolation="antialiased")


def _scale(axes: Axes, colors: np.ndarray, text: str, top: float) -> None:
    """The colours [h,w,3], from least to greatest."""
    left = 0.1 if style.is_narrow() else _NAMES
    axes.imshow(colors, extent=(left, left + 1.5, top + 0.24, top), interpolation="nearest")
    size = 7.0 if style.is_narrow() else 8.5
    axes.text(left + 1.6, top + 0.12, text, va="center", fontsize=size)


def distances(study: ReportData, rows: style.Rows) -> Figure:
    """Draws how far each student's attention maps are from the teacher's, for each level.

    Args:
      study: of the networks.
      rows: the numbers of its methods, at least one of them with `similarity`.

    Returns:
      A figure of two rows, mean cosine and AM loss; bars are means over seeds, whiskers standard
      deviations.
    """
    compared = {method: row for method, row in rows.items() if row.similarity}
    layers = list(dict.fromkeys(layer for row in compared.values() for layer in row.similarity))
    height = 0.85 + style.row_height(0.27) * len(compared)
    figure, grid = style.level_panels(len(layers), 2, height, sharey=True)
    for (cosine, am), layer in zip(grid, layers, strict=True):
        _bars(cosine, study, {m: row.similarity.get(layer) for m, row in compared.items()}, 0)
        cosine.set(title=style.level(layer), xlabel="mean cosine")
        cosine.set(xlim=(0.0, 1.0), xticks=np.linspace(0.0, 1.0, 5))
        losses = {method: row.am_distance.get(layer) for method, row in compared.items()}
        # Levels are orders of magnitude apart.
        largest = max(score.mean for score in losses.values() if score is not None)
        exponent = int(np.floor(np.log10(largest))) if largest > 0 else 0
        _bars(am, study, losses, exponent)
        am.set(title=style.level(layer), xlabel=f"AM loss / $10^{{{exponent}}}$")
    return figure


def _bars(axes: Axes, study: ReportData, scores: dict[str, Score | None], exponent: int) -> None:
    """A bar for each method, in units of a power of ten; none where nothing was measured."""
    look, factor = style.looks(study), 10.0**-exponent
    for row, (method, score) in enumerate(scores.items()):
        if score is None:
            continue
        mean, std = factor * score.mean, factor * (score.std or 0.0)
        color = look[method].color
        axes.barh(row, mean, 0.7, color=color, xerr=std or None, ecolor=style.ink(), capsize=2)
        style.at_right(axes, row, style.as_text(score, 3, factor))
    style.name_rows(axes, list(scores))
