"""The sections of a report: their figures with captions, and notes about missing figures."""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from amdjax.report.figures import (
    activation,
    angles,
    calibration,
    classes,
    embedding,
    style,
    sweeps,
    training,
)
from amdjax.report.report_data import LEVELS, ReportData
from amdjax.report.summary import class_sample


class FigureSpec(NamedTuple):
    """A figure of a section.

    Attributes:
      name: of its file, without the extension.
      title: heading.
      alt: alternative text.
      caption: how to read the figure.
      draw: creates the figure; call it and draw the figure within `style.figure_style`.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Callable[[], Figure]


class Section(NamedTuple):
    """A section of the report.

    Attributes:
      key: the anchor.
      title: heading.
      figures: in their order.
      notes: a sentence about each missing figure, and what it needs.
    """

    key: str
    title: str
    figures: tuple[FigureSpec, ...]
    notes: tuple[str, ...] = ()


def create_sections(report: ReportData, summaries: style.Summaries) -> tuple[Section, ...]:
    """Returns the sections with their figures; t-SNE and pairwise distances are computed here.

    Args:
      report: of any number of networks.
      summaries: of its methods, from `summarize`.
    """
    makers = {
        ("classes", "Classes"): _classes,
        ("calibration", "Calibration"): _calibration,
        ("embedding", "Embeddings"): _embedding,
        ("activation", "Attention maps and Grad-CAM"): _activation,
        ("angles", "Angles"): _angles,
        ("training", "Training"): _training,
        ("sweeps", "Sweeps"): _sweeps,
    }
    if not report.networks:
        note = (
            "There are no results yet: train a network with "
            f"`python -m amdjax.main --workdir={report.workdir}`."
        )
        return tuple(Section(key, title, (), (note,)) for key, title in makers)
    return tuple(
        Section(key, title, *make(report, summaries)) for (key, title), make in makers.items()
    )


_Content = tuple[tuple[FigureSpec, ...], tuple[str, ...]]  # of a section: figures, notes


def _classes(report: ReportData, summaries: style.Summaries) -> _Content:
    figures, notes = [], []
    large, reference = classes.is_large(report), classes.reference(summaries)
    choice = ""
    if large:
        choice = f" Left: the {classes.MOST} classes where {reference} has its lowest accuracy."
        if len(summaries) > 1:
            choice += (
                f" Right: of the other classes, the {classes.MOST} with the largest mean absolute "
                f"difference of the methods from {reference}."
            )
    figures.append(
        FigureSpec(
            "class_accuracy",
            "Accuracy by class",
            f"Accuracy of {_methods(summaries)} for single classes, as numbers.",
            "Accuracy on the test images of a class (%), coloured by the difference from "
            f"{reference}.{_mean_over_seeds(summaries)}{choice} The file classes.csv has all "
            f"classes{', and the standard deviations' if _several_seeds(summaries) else ''}.",
            functools.partial(classes.class_accuracy, report, summaries),
        )
    )
    if not large:
        figures.append(
            FigureSpec(
                "confusion",
                "Confusion matrices",
                f"Confusion matrices of {_methods(summaries)}.",
                "Predicted classes (columns) of the test images of each class (rows), in per cent "
                "of the class; the colours have a square-root scale, so that rare confusions are "
                f"visible.{_mean_over_seeds(summaries)} The file confusion.csv has the numbers.",
                functools.partial(classes.confusion_matrices, report, summaries),
            )
        )
    elif classes.frequent_confusions(report, summaries):
        figures.append(
            FigureSpec(
                "confusion",
                "Most frequent confusions",
                f"The most frequent confusions of {_methods(summaries)}, as numbers.",
                "The pairs of true class → predicted class with the most errors, averaged over the "
                "methods, in per cent of the test images of the true class."
                f"{_mean_over_seeds(summaries)} The file confusion.csv has all confusions.",
                functools.partial(classes.confusion_rates, report, summaries),
            )
        )
    else:
        notes.append("No confusions: all predictions are correct.")
    return tuple(figures), tuple(notes)


def _calibration(report: ReportData, summaries: style.Summaries) -> _Content:
    held_out = len(report.labels) - len(report.labels) // 2
    return (
        FigureSpec(
            "reliability",
            "Reliability",
            f"Reliability diagram and confidence histogram of {_methods(summaries)}.",
            "Top: accuracy of the predictions in each of 15 confidence bins, on the test split. "
            "The hatched area is the gap to the mean confidence of the bin: white on the bar if "
            "the network is underconfident, dark above the bar if it is overconfident. ECE is the "
            "mean gap, weighted by the number of images in each bin. Bottom: number of images in "
            "each bin, on a logarithmic axis; bins with few images are unreliable."
            f"{_first_seeds(summaries)}{_in_parentheses(summaries)}",
            functools.partial(calibration.reliability_diagrams, report, summaries),
        ),
        FigureSpec(
            "temperature",
            "Temperature scaling",
            f"Calibration error before and after temperature scaling of {_methods(summaries)}.",
            "The temperature T minimises the negative log-likelihood on a random half of the test "
            f"split. The calibration errors are measured on the other half, {held_out:,} images "
            "(for few images ECE is too high on average). T > 1 makes the probabilities softer, "
            "T < 1 sharper; the ECE may rise, since T does not minimise it."
            f"{_over_seeds(summaries)}",
            functools.partial(calibration.temperature_scaling, report, summaries),
        ),
    ), ()


def _embedding(report: ReportData, summaries: style.Summaries) -> _Content:
    examples = embedding.choose_examples(report)
    num_classes = len(set(report.labels[examples].tolist()))
    points = (
        f"The same {len(examples)} test images for every network, coloured by class, with the "
        "class number at the median of each class, unless two would overlap"
    )
    if num_classes < len(report.class_names):
        points += f" ({num_classes} of {len(report.class_names)} classes)"
    names = _class_numbers(report, examples)
    figures, notes = [], []
    layout, errors = embedding.layouts(report.first_seeds, examples)
    notes += [f"No t-SNE of {name}: {error}." for name, error in errors.items()]
    components, errors = embedding.principal_components(report.first_seeds)
    notes += [f"No principal components of {name}: {error}." for name, error in errors.items()]
    if layout:
        figures.append(
            FigureSpec(
                "tsne",
                "t-SNE",
                f"t-SNE of the embeddings of {_methods(summaries)}.",
                f"{points}{names}. Each layout is rotated and mirrored to match the first one; "
                "only neighbourhoods are meaningful. V: V-measure of the predicted against the "
                "true classes, on all test images."
                f"{_first_seeds(summaries)}{_in_parentheses(summaries)}",
                functools.partial(embedding.tsne_panels, report, summaries, layout, examples),
            )
        )
    if components:
        figures += [
            FigureSpec(
                "pca",
                "Principal components",
                f"First two principal components of the embeddings of {_methods(summaries)}.",
                "First two principal components, with the fraction of the variance that each "
                f"explains. {points}{'' if layout else names}.{_first_seeds(summaries)}",
                functools.partial(embedding.pca_panels, report, components, examples),
            ),
            FigureSpec(
                "spectrum",
                "Singular values",
                f"Singular values of the centred embeddings of {_methods(summaries)}, in one plot.",
                "Singular values of the centred embeddings, divided by the largest one. The faster "
                f"they decay, the fewer dimensions a network uses.{_first_seeds(summaries)}",
                functools.partial(embedding.spectrum, report, components),
            ),
        ]
    return tuple(figures), tuple(notes)


def _activation(report: ReportData, summaries: style.Summaries) -> _Content:
    figures, notes = [], []
    count = activation.num_images(report)
    if not report.networks[0].maps:
        notes.append(_NO_LAYERS)
    elif count:
        images = "the test images on which the networks disagree most"
        if not report.by_disagreement:
            images = "the chosen test images"
        grid = f"{count} test images (rows) and {_methods(summaries)} (columns)"
        figures += [
            FigureSpec(
                "attention",
                "Attention maps",
                f"Attention maps for {grid}, at {_levels(report)}.",
                f"Attention maps (sum of squares over the channels) of {images}, at "
                f"{_levels(report)}. Left: true class and index of the image. Below each map: "
                f"cosine with the teacher's map.{_first_seeds(summaries)}",
                functools.partial(activation.attention_maps, report),
            ),
            FigureSpec(
                "gradcam",
                "Grad-CAM",
                f"Grad-CAM for {grid}, at {_levels(report)}.",
                f"Grad-CAM of the predicted class for {images}. Left: true class and index of the "
                "image. Below each map: predicted class; ✗ marks errors. A map without colours is "
                f"zero.{_first_seeds(summaries)}",
                functools.partial(activation.grad_cams, report),
            ),
        ]
    else:
        notes.append("No attention maps and Grad-CAM: there are no sample images.")
    if any(summary.similarity for summary in summaries.values()):
        figures.append(
            FigureSpec(
                "distance",
                "Distance to the teacher's attention maps",
                "Bars of mean cosine and AM loss between the attention maps of students and "
                "teacher, for each level.",
                "Distance between the attention maps of students and teacher, averaged over the "
                "test split: cosine (1 for equal maps) and AM loss (0 for equal maps), "
                f"{_am_settings(report)}.{_over_seeds(summaries)}",
                functools.partial(activation.distances, report, summaries),
            )
        )
    else:
        notes.append(_NO_DISTANCE)
    return tuple(figures), tuple(notes)


_NO_LAYERS = "No maps: the networks have none of the layers stage1, stage2 and stage3 in common."
_NO_DISTANCE = (
    "No distance to the teacher's attention maps: this needs a teacher and a student whose maps "
    "have compatible sizes."
)


def _angles(report: ReportData, summaries: style.Summaries) -> _Content:
    figures, notes = [], []
    if report.networks[0].angles:
        figures.append(
            FigureSpec(
                "angles",
                "Angle between positive and negative map",
                "Distribution of the angle between positive and negative map of "
                f"{_methods(summaries)}, for each level.",
                "Angle between the positive map q (attention map of unit norm) and the negative "
                "map 1 − q, over the test split: 0° for uniform attention, 90° for attention at a "
                f"single position. Vertical line: mean.{_all_seeds(summaries)}",
                functools.partial(angles.map_angles, report, summaries),
            )
        )
    else:
        notes.append(_NO_LAYERS)
    if all(
        {"geodesic_intra", "geodesic_inter"} <= summary.scores.keys()
        for summary in summaries.values()
    ):
        count = len(class_sample(report.labels, len(report.class_names)))
        figures.append(
            FigureSpec(
                "geodesic",
                "Geodesic distances",
                "Geodesic distances of embeddings within and between classes, of "
                f"{_methods(summaries)}.",
                "Geodesic distance (angle) between the embeddings of two test images of the same "
                f"class and of different classes, for all pairs of {count:,} images. The "
                "angular-margin contrastive loss (amc) decreases the former and increases the "
                f"latter.{_all_seeds(summaries)}",
                functools.partial(
                    angles.geodesic, report, summaries, angles.class_distances(report)
                ),
            )
        )
    else:
        notes.append(
            "No geodesic distances: this needs test images of two classes, and two of one class."
        )
    return tuple(figures), tuple(notes)


def _training(report: ReportData, summaries: style.Summaries) -> _Content:
    figures, notes = [], []
    split = training.evaluated_split(report)
    if drawn := training.methods_with_curve(report, split, "accuracy"):
        figures.append(
            FigureSpec(
                "accuracy",
                "Accuracy",
                f"{split.capitalize()} accuracy over the training steps of {_methods(drawn)}.",
                f"Accuracy on the {split} split during training.{_over_seeds(summaries)}",
                functools.partial(training.accuracy_curves, report),
            )
        )
        if others := [method for method in summaries if method not in drawn]:
            notes.append(
                f"No accuracy curve of {', '.join(others)}: there is no step at which all seeds "
                f"were evaluated on the {split} split."
            )
    else:
        notes.append("No accuracy curve: no metrics.jsonl has an evaluation yet.")
    if drawn := training.methods_with_curve(report, "train", "loss"):
        figures.append(
            FigureSpec(
                "losses",
                "Losses",
                f"Total loss and its terms over the training steps of {_methods(drawn)}.",
                "Total loss and its terms on the training batches; the terms are shown without "
                "their weights (in nats for ce and kd). The methods differ in terms and settings, "
                "so their losses are not comparable; compare the distances to the teacher's "
                f"attention maps instead.{_over_seeds(summaries)}",
                functools.partial(training.loss_curves, report),
            )
        )
    else:
        notes.append("No loss curves: no metrics.jsonl has a training step yet.")
    if training.common_levels(summaries):
        figures.append(
            FigureSpec(
                "am_accuracy",
                "Accuracy against AM loss",
                "Test accuracy of each student against its AM loss to the teacher's maps.",
                "Accuracy against the AM loss on the test split, averaged over the levels, "
                f"{_am_settings(report)}; one marker for each run (Figure 6 of the AMD paper). The "
                "axis is logarithmic where the losses differ by more than a factor of ten.",
                functools.partial(training.am_against_accuracy, report, summaries),
            )
        )
    else:
        notes.append(_NO_DISTANCE)
    return tuple(figures), tuple(notes)


def _sweeps(report: ReportData, summaries: style.Summaries) -> _Content:
    if not report.sweeps:
        return (), (
            "No sweep: `--config.sweep.key=losses.am.weight "
            "--config.sweep.choices=1000.0,3000.0,5000.0` shows the accuracy against γ, "
            "`losses.am.margin` against m, and `losses.am.terms` for each term of the AM loss.",
        )
    return tuple(
        FigureSpec(
            f"sweep-{key.removeprefix('losses.').replace('.', '-')}",
            f"Accuracy against {key}",
            f"Test accuracy for each value of {key}.",
            f"Accuracy on the test split for each value of {key}; methods that do not use this "
            "setting are shown for comparison. The best value here is chosen on the test split."
            f"{_over_seeds(summaries)}",
            functools.partial(
                sweeps.curves if sweeps.is_numeric(report, key) else sweeps.bars,
                report,
                summaries,
                key,
            ),
        )
        for key in report.sweeps
    ), ()


def _methods(methods: Collection[str]) -> str:
    return f"{len(methods)} methods" if len(methods) > 6 else ", ".join(methods)


def _levels(report: ReportData) -> str:
    """Returns the levels whose maps are shown, and their layers, in words."""
    levels = {layer: LEVELS[layer] for layer in LEVELS if layer in report.networks[0].maps}
    *first, last = levels.values()
    names = f"{', '.join(first)} and {last}" if first else last
    return f"the {names} level ({', '.join(levels)})"


def _several_seeds(summaries: style.Summaries) -> bool:
    return any(len(summary.seeds) > 1 for summary in summaries.values())


def _first_seeds(summaries: style.Summaries) -> str:
    return " First seed of each method." if _several_seeds(summaries) else ""


def _all_seeds(summaries: style.Summaries) -> str:
    if not _several_seeds(summaries):
        return ""
    return " All seeds together; numbers are mean ± standard deviation over the seeds."


def _in_parentheses(summaries: style.Summaries) -> str:
    if not _several_seeds(summaries):
        return ""
    return " In parentheses: mean ± standard deviation over the seeds."


def _over_seeds(summaries: style.Summaries) -> str:
    return " Mean ± standard deviation over the seeds." if _several_seeds(summaries) else ""


def _mean_over_seeds(summaries: style.Summaries) -> str:
    return " Mean over the seeds." if _several_seeds(summaries) else ""


def _am_settings(report: ReportData) -> str:
    """Returns the settings of the AM loss that is measured."""
    am = report.config["losses"]["am"]
    return f"with m = {am['margin']:g} and s = {am['scale']:g} for all methods"


def _class_numbers(report: ReportData, examples: np.ndarray) -> str:
    """Returns the numbers and names of the classes; "" if the names are the numbers."""
    labels = np.unique(report.labels[examples]).tolist()
    names = {label: style.class_name(report, label) for label in labels}
    if all(name == str(label) for label, name in names.items()):
        return ""
    return f" ({', '.join(f'{label}: {name}' for label, name in names.items())})"
