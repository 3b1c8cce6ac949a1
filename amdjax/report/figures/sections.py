"""What a report shows in which order, and what each section would need to be filled."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from amdjax.analysis.embedding import pca
from amdjax.report.figures import (
    activation,
    angles,
    calibration,
    embedding,
    style,
    sweeps,
    training,
)
from amdjax.report.report_data import ReportData
from amdjax.report.summary import class_sample

_NO_NETWORK = (
    "Nothing to show yet: train a network with `python -m amdjax.main --workdir={workdir}`."
)


class FigureSpec(NamedTuple):
    """A figure with its words.

    Attributes:
      name: of its file, without the extension.
      title: heading.
      alt: what can be seen, for those who cannot see it.
      caption: how to read it.
      draw: makes the figure in the present theme, see `style.theme`.
    """

    name: str
    title: str
    alt: str
    caption: str
    draw: Callable[[], Figure]


class Section(NamedTuple):
    """A part of the report.

    Attributes:
      key: the anchor.
      title: heading.
      pictures: in their order.
      lacking: a sentence for each thing that is not there and would be needed.
    """

    key: str
    title: str
    pictures: tuple[FigureSpec, ...]
    lacking: tuple[str, ...] = ()


def sections(study: ReportData, rows: style.Rows) -> tuple[Section, ...]:
    """Returns the sections with figures; t-SNE and pairs of embeddings are computed here, once.

    Args:
      study: of any number of networks.
      rows: the numbers of its methods, from `score`.
    """
    makers = {
        ("calibration", "Calibration"): _calibration,
        ("embedding", "Embeddings"): _embedding,
        ("activation", "Attention maps and Grad-CAM"): _activation,
        ("angles", "Angles"): _angles,
        ("training", "Training"): _training,
        ("sweeps", "Sweeps"): _sweeps,
    }
    if not study.networks:
        lacking = (_NO_NETWORK.format(workdir=study.workdir),)
        return tuple(Section(key, title, (), lacking) for key, title in makers)
    return tuple(Section(key, title, *make(study, rows)) for (key, title), make in makers.items())


_Content = tuple[tuple[FigureSpec, ...], tuple[str, ...]]  # of a section: pictures, lacking


def _calibration(study: ReportData, rows: style.Rows) -> _Content:
    return (
        FigureSpec(
            "reliability",
            "Reliability",
            f"Reliability diagram and confidence histogram of {_methods(rows)}.",
            "Accuracy of the predictions in each of 15 bins of confidence, on the test split. "
            "Hatched: the gap to the mean confidence of the bin, white on the bar where the "
            "network is too modest, dark above it where it is too sure. ECE: the mean gap, "
            "weighted by the images in a bin. Below: images in each bin, on a logarithmic axis; a "
            f"bin of few says little.{_first_seeds(rows)}{_in_parentheses(rows)}",
            functools.partial(calibration.reliability_diagrams, study, rows),
        ),
        FigureSpec(
            "temperature",
            "Temperature scaling",
            f"Calibration error before and after temperature scaling of {_methods(rows)}.",
            "T is fitted on a random half of the test split by the likelihood; the calibration "
            f"errors are those of the other half, {len(study.labels) - len(study.labels) // 2:,} "
            "images (of fewer images an ECE comes out larger). T above 1 means that a network was "
            f"too sure of itself, below 1 that it was too modest.{_over_seeds(rows)}",
            functools.partial(calibration.temperature_scaling, study, rows),
        ),
    ), ()


def _embedding(study: ReportData, rows: style.Rows) -> _Content:
    examples = embedding.sample(study)
    classes = len(set(study.labels[examples].tolist()))
    shown = (
        f"The same {len(examples)} test images of every network, coloured by class, with the "
        "number of each class at its centre"
    )
    if classes < len(study.class_names):
        shown += f" ({classes} of the {len(study.class_names)} classes, where there is room)"
    names = _numbered(study, examples)
    pictures, lacking = [], []
    components = {one.name: pca(one.embedding) for one in style.firsts(study)}
    layout, reasons = embedding.layouts(style.firsts(study), examples)
    lacking += [f"No t-SNE of {name}: {reason}." for name, reason in reasons.items()]
    if layout:
        pictures.append(
            FigureSpec(
                "tsne",
                "t-SNE",
                f"t-SNE of the embeddings of {_methods(rows)}.",
                f"{shown}{names}. Layouts are turned to lie as the first one's; only "
                "neighbourhoods mean anything. V: V-measure of the predicted against the true "
                f"classes, all test images.{_first_seeds(rows)}{_in_parentheses(rows)}",
                functools.partial(embedding.tsne_panels, study, rows, layout, examples),
            )
        )
    pictures += [
        FigureSpec(
            "pca",
            "Principal components",
            f"First two principal components of the embeddings of {_methods(rows)}.",
            f"The first two principal components, with the share of the variance that each "
            f"explains. {shown}{'' if layout else names}.{_first_seeds(rows)}",
            functools.partial(embedding.pca_panels, study, components, examples),
        ),
        FigureSpec(
            "spectrum",
            "Spectrum",
            f"Singular values of the centred embeddings of {_methods(rows)}, in one plot.",
            "Singular values of the centred embeddings, divided by the largest: the faster they "
            f"fall, the fewer dimensions a network uses.{_first_seeds(rows)}",
            functools.partial(embedding.spectrum, study, components),
        ),
    ]
    return tuple(pictures), tuple(lacking)


def _activation(study: ReportData, rows: style.Rows) -> _Content:
    pictures, lacking = [], []
    shown = activation.images_shown(study)
    if shown:
        images = "those test images on which the networks disagree most"
        if not study.disputed:
            images = "the test images that were asked for"
        of = f"{shown} test images (rows) by {_methods(rows)} (columns)"
        pictures += [
            FigureSpec(
                "attention",
                "Attention maps",
                f"Attention maps of {of}, at the low, middle and high level.",
                f"Attention maps (the sum of squares over the channels) of {images}, at the low, "
                "middle and high level (stage1, stage2, stage3). At the left: the true class and "
                "the number of the image. Below a map: its cosine with the teacher's."
                f"{_first_seeds(rows)}",
                functools.partial(activation.attention_maps, study),
            ),
            FigureSpec(
                "gradcam",
                "Grad-CAM",
                f"Grad-CAM of {of}, at the low, middle and high level.",
                f"What in a feature map speaks for the predicted class, over {images}. At the "
                "left: the true class. Below: the predicted one; ✗ marks a mistake."
                f"{_first_seeds(rows)}",
                functools.partial(activation.grad_cams, study),
            ),
        ]
    else:
        lacking.append("No maps: the test split has no image to show.")
    if any(row.similarity for row in rows.values()):
        pictures.append(
            FigureSpec(
                "distance",
                "Distance to the teacher's maps",
                "Bars of mean cosine and AM loss between the attention maps of students and "
                "teacher, for each level.",
                "Students' attention maps against their teacher's, mean over the test split: "
                f"cosine (1: the same map) and AM loss (0: the same map), {_am(study)}."
                f"{_over_seeds(rows)}",
                functools.partial(activation.distances, study, rows),
            )
        )
    else:
        lacking.append(_NO_DISTANCE)
    return tuple(pictures), tuple(lacking)


_NO_DISTANCE = (
    "No distance to the teacher's maps: that needs a teacher and a student in the workdir, with "
    "maps whose sizes fit."
)


def _angles(study: ReportData, rows: style.Rows) -> _Content:
    pictures = [
        FigureSpec(
            "angles",
            "Angle of positive and negative map",
            f"Distribution of the angle between positive and negative map of {_methods(rows)}, for "
            "each level.",
            "Angle between the positive map q (attention, unit norm) and the negative map 1 − q, "
            "over the test split: 0° where attention is the same everywhere, 90° where it is all "
            f"in one position. Upright line: mean.{_all_seeds(rows)}",
            functools.partial(angles.map_angles, study, rows),
        )
    ]
    if all(
        "geodesic_intra" in row.scores and "geodesic_inter" in row.scores for row in rows.values()
    ):
        pictures.append(
            FigureSpec(
                "geodesic",
                "Geodesic distances",
                f"Geodesic distances of embeddings in and between classes, of {_methods(rows)}.",
                "Geodesic distance (angle) of pairs of embeddings of one class and of two classes, "
                f"of {len(class_sample(study.labels, len(study.class_names))):,} test images. The "
                "angular-margin contrastive loss (amc) is to bring the former together and the "
                f"latter apart.{_all_seeds(rows)}",
                functools.partial(angles.geodesic, study, rows, angles.class_distances(study)),
            )
        )
        return tuple(pictures), ()
    return tuple(pictures), (
        "No geodesic distances: that needs test images of two classes, and two of one class.",
    )


def _training(study: ReportData, rows: style.Rows) -> _Content:
    pictures, lacking = [], []
    if training.has_curve(study, "test", "accuracy"):
        pictures.append(
            FigureSpec(
                "accuracy",
                "Accuracy",
                f"Test accuracy over the training steps of {_methods(rows)}.",
                f"Accuracy on the test split while training.{_over_seeds(rows)}",
                functools.partial(training.accuracy_curves, study),
            )
        )
    else:
        lacking.append("No curve of the accuracy: no metrics.jsonl holds an evaluation yet.")
    if training.has_curve(study, "train", "loss"):
        pictures.append(
            FigureSpec(
                "losses",
                "Losses",
                f"Total loss and each of its parts over the training steps of {_methods(rows)}.",
                "Total loss and its parts on the training batches, the parts without their "
                "weights (nats for ce and kd). Each method has its own settings and terms, so the "
                "heights of its curves are its own: for a comparison see the distances to the "
                f"teacher's maps.{_over_seeds(rows)}",
                functools.partial(training.loss_curves, study),
            )
        )
    else:
        lacking.append("No curve of the loss: no metrics.jsonl holds a line of training yet.")
    if training.common_levels(rows):
        pictures.append(
            FigureSpec(
                "am_accuracy",
                "Accuracy over AM loss",
                "Test accuracy of each student over its AM loss to the teacher's maps.",
                "Accuracy over the AM loss on the test split, mean over the levels, "
                f"{_am(study)}; one mark for each run (Figure 6 of the AMD paper).",
                functools.partial(training.am_against_accuracy, study, rows),
            )
        )
    else:
        lacking.append(_NO_DISTANCE)
    return tuple(pictures), tuple(lacking)


def _sweeps(study: ReportData, rows: style.Rows) -> _Content:
    if not study.sweeps:
        return (), (
            "Nothing was swept. `--config.sweep.key=losses.am.weight "
            '--config.sweep.choices="(1000.0,3000.0,5000.0)"` would show the accuracy over γ, '
            "`losses.am.margin` that over m, and `losses.am.terms` that of each term of the AM "
            "loss.",
        )
    return tuple(
        FigureSpec(
            f"sweep-{key.removeprefix('losses.').replace('.', '-')}",
            f"Accuracy over {key}",
            f"Test accuracy for each value of {key}.",
            f"Accuracy on the test split for each value of {key}; methods of which nothing was "
            f"swept are shown for comparison.{_over_seeds(rows)}",
            functools.partial(
                sweeps.curves if sweeps.is_numeric(study, key) else sweeps.bars, study, rows, key
            ),
        )
        for key in study.sweeps
    ), ()


def _methods(rows: style.Rows) -> str:
    return f"{len(rows)} methods" if len(rows) > 6 else ", ".join(rows)


def _several(rows: style.Rows) -> bool:
    return any(len(row.seeds) > 1 for row in rows.values())


def _first_seeds(rows: style.Rows) -> str:
    return " Shown is each method's first seed." if _several(rows) else ""


def _all_seeds(rows: style.Rows) -> str:
    return " All seeds together; mean ± standard deviation over them." if _several(rows) else ""


def _in_parentheses(rows: style.Rows) -> str:
    return " In parentheses: mean ± standard deviation over the seeds." if _several(rows) else ""


def _am(study: ReportData) -> str:
    """With which settings the AM loss is measured."""
    am = study.config["losses"]["am"]
    return f"with m = {am['margin']:g} and s = {am['scale']:g} for all"


def _numbered(study: ReportData, examples: np.ndarray) -> str:
    """Which class has which number, where its name is another one."""
    labels = np.unique(study.labels[examples]).tolist()
    names = {label: style.class_name(study, label) for label in labels}
    if all(name == str(label) for label, name in names.items()):
        return ""
    return f" ({', '.join(f'{label}: {name}' for label, name in names.items())})"


def _over_seeds(rows: style.Rows) -> str:
    return " Mean ± standard deviation over the seeds." if _several(rows) else ""
