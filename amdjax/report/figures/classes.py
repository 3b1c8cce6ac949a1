"""Figures of single classes: accuracy by class, confusion matrices, and frequent confusions."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, PowerNorm
from matplotlib.figure import Figure

from amdjax.methods import TEACHER
from amdjax.report.figures import style
from amdjax.report.report_data import ReportData

MOST = 10  # classes with the lowest and with the most changed accuracy, and confusions
_WITH_NUMBERS = 12  # classes of a confusion matrix whose entries are written
_LETTERS = 22  # of a class name


class _Group(NamedTuple):
    """A group of columns of a sheet.

    Attributes:
      title: above the columns.
      headings: of the columns.
      values: float [methods,columns], written into the cells, in per cent.
      colors: float [methods,columns], shown by the colour of the cells.
    """

    title: str
    headings: list[str]
    values: np.ndarray
    colors: np.ndarray


def is_large(report: ReportData) -> bool:
    """Returns whether there are too many classes to draw all of them."""
    return len(report.class_names) > style.MAX_CLASSES


def reference(summaries: style.Summaries) -> str:
    """Returns the method that the accuracies are compared with: scratch, teacher or the first."""
    return next((one for one in ("scratch", TEACHER) if one in summaries), next(iter(summaries)))


def class_groups(report: ReportData, summaries: style.Summaries) -> dict[str, np.ndarray]:
    """Chooses the classes whose accuracy is drawn, among those with test images.

    Returns:
      title -> int labels: "" -> all of at most `style.MAX_CLASSES`; of more, the `MOST` with the
      lowest accuracy of the `reference`, and of the others those where the accuracies of the other
      methods differ most from it, by the mean absolute difference.
    """
    present = np.unique(report.labels)
    if not is_large(report):
        return {"": present}
    name = reference(summaries)
    baseline = summaries[name].classes.accuracy.mean(axis=0)
    lowest = present[np.argsort(baseline[present], kind="stable")[:MOST]]
    groups = {f"lowest accuracy of {style.short_label(name)}": lowest}
    others = [summary.classes.accuracy.mean(0) for key, summary in summaries.items() if key != name]
    rest = np.setdiff1d(present, lowest)
    if others and rest.size:
        change = np.abs(np.stack(others) - baseline).mean(axis=0)
        changed = rest[np.argsort(-change[rest], kind="stable")[:MOST]]
        groups[f"largest difference from {style.short_label(name)}"] = changed
    return groups


def frequent_confusions(report: ReportData, summaries: style.Summaries) -> list[tuple[int, int]]:
    """Returns the pairs (class, predicted class) of the most errors, at most `MOST`.

    The number of errors is the mean over the methods.
    """
    images = np.bincount(report.labels, minlength=len(report.class_names))
    errors = np.zeros([len(images)] * 2)
    for summary in summaries.values():
        errors += np.nan_to_num(summary.classes.confusion) * images[:, None]
    np.fill_diagonal(errors, 0.0)
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST]
    pairs = zip(*np.unravel_index(order, errors.shape), strict=True)
    return [(int(label), int(other)) for label, other in pairs if errors[label, other] > 0]


def class_accuracy(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the accuracy by class: rows are methods, columns the classes of `class_groups`.

    Args:
      report: with at least one network.
      summaries: of its methods.

    Returns:
      A figure with the mean accuracies over the seeds as numbers, coloured by the difference from
      the `reference`.
    """
    accuracy = {
        name: 100 * summary.classes.accuracy.mean(axis=0) for name, summary in summaries.items()
    }
    values = np.stack(list(accuracy.values()))
    change = values - accuracy[reference(summaries)]
    groups = [
        _Group(
            title,
            [style.short_class_name(report, label, _LETTERS) for label in labels],
            values[:, labels],
            change[:, labels],
        )
        for title, labels in class_groups(report, summaries).items()
    ]
    largest = max(1.0, *(np.abs(group.colors).max() for group in groups))
    label = f"difference from {style.short_label(reference(summaries))} (points)"
    norm = Normalize(-largest, largest)
    return _draw_sheet(summaries, groups, mpl.colormaps["BrBG"], norm, label)


def confusion_rates(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the most frequent confusions: rows are methods, columns `frequent_confusions`.

    Args:
      report: with at least one network, and at least one error.
      summaries: of its methods.

    Returns:
      A figure with the means over the seeds, in per cent of the class's test images.
    """
    pairs = frequent_confusions(report, summaries)
    values = np.array(
        [
            [100 * summary.classes.confusion[pair] for pair in pairs]
            for summary in summaries.values()
        ]
    )
    classes = [
        [style.short_class_name(report, label, _LETTERS) for label in pair] for pair in pairs
    ]
    names = [f"{label}\n→ {predicted}" for label, predicted in classes]
    label = "fraction of the class's test images (%)"
    norm = Normalize(0.0, values.max())
    groups = [_Group("", names, values, values)]
    return _draw_sheet(summaries, groups, mpl.colormaps["Blues"], norm, label)


def confusion_matrices(report: ReportData, summaries: style.Summaries) -> Figure:
    """Draws the confusion matrix of each method, whose rows sum to 100 %.

    Args:
      report: with at least one network and at most `style.MAX_CLASSES` classes.
      summaries: of its methods.

    Returns:
      A figure with a panel for each method: rows are classes with test images, columns predicted
      classes, means over the seeds.
    """
    rows = np.unique(report.labels)
    names = [
        style.short_class_name(report, label, _LETTERS) for label in range(len(report.class_names))
    ]
    figure, grid = style.panels(len(summaries), 3.6, 1.0, 4)
    side_by_side = style.columns(len(summaries), 3.6, 4)
    norm, colors = PowerNorm(0.5, 0.0, 100.0), mpl.colormaps["Blues"]
    for index, (axes, (method, summary)) in enumerate(zip(grid, summaries.items(), strict=True)):
        values = 100 * summary.classes.confusion[rows]
        image = axes.imshow(values, cmap=colors, norm=norm, aspect="auto")
        if len(names) <= _WITH_NUMBERS:
            _write_numbers(axes, values, colors(norm(values)), 0, 6.5, with_zeros=False)
        axes.set_title(style.wrapped_label(method, 30))
        _plain_ticks(axes)
        axes.tick_params(labelsize=7 if len(names) <= _WITH_NUMBERS else 6)
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(rows)), [names[row] for row in rows], parse_math=False)
        if index % side_by_side == 0:
            axes.set_ylabel("true class")
        else:
            axes.tick_params(labelleft=False)
        if index + side_by_side >= len(summaries):
            axes.set_xlabel("predicted class")
        else:
            axes.tick_params(labelbottom=False)
    _add_color_bar(figure, image, grid, "fraction of the class's test images (%)")
    return figure


def _draw_sheet(
    summaries: style.Summaries,
    groups: list[_Group],
    colors: Colormap,
    norm: Normalize,
    color_label: str,
) -> Figure:
    """Draws a row of numbers for each method, with groups of columns side by side."""
    widths = [len(group.headings) for group in groups]
    width = min(style.PAGE_WIDTH, max(6.0, 2.4 + 0.62 * sum(widths)))
    lines = "\n".join(name for group in groups for name in group.headings).split("\n")
    longest = max(map(len, lines))
    figure = Figure(figsize=(width, 1.2 + 0.085 * longest + 0.27 * len(summaries)))
    grid = figure.subplots(1, len(groups), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axes, group in zip(grid, groups, strict=True):
        image = axes.imshow(group.colors, cmap=colors, norm=norm, aspect="auto")
        _write_numbers(axes, group.values, colors(norm(group.colors)), 1, 7.5)
        style.label_rows(axes, list(summaries))
        axes.set_ylim(len(summaries) - 0.5, -0.5)
        axes.set_xticks(range(len(group.headings)), group.headings, rotation=90, parse_math=False)
        axes.set_title(group.title)
        _plain_ticks(axes)
    grid[0].tick_params(labelleft=True)
    _add_color_bar(figure, image, list(grid), color_label)
    return figure


def _write_numbers(
    axes: Axes,
    values: np.ndarray,
    colors: np.ndarray,
    digits: int,
    size: float,
    with_zeros: bool = True,
) -> None:
    """Writes float [rows,columns] into the cells, in white on dark colours [rows,columns,4]."""
    luminance = colors[..., :3] @ (0.299, 0.587, 0.114)
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.{digits}f}"
        if not with_zeros and float(text) == 0:
            continue
        color = style.PAPER if luminance[row, column] < 0.5 else style.INK
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def _plain_ticks(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _add_color_bar(
    figure: Figure, image: mpl.cm.ScalarMappable, grid: list[Axes], label: str
) -> None:
    pad = 0.1 / figure.get_figheight()
    bar = figure.colorbar(
        image, ax=grid, location="bottom", label=label, shrink=0.4, aspect=30, pad=pad
    )
    bar.outline.set_visible(False)
