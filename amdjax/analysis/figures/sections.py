"""What a report shows in which order, and what each section would need to be filled."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from amdjax.analysis.figures import (
    activation,
    angles,
    calibration,
    embedding,
    style,
    sweeps,
    training,
)
from amdjax.analysis.study import Study
from amdjax.errors import UserError

_NO_NETWORK = "Nothing to show yet: train a network with python -m amdjax.main --workdir={workdir}."


class Picture(NamedTuple):
    """A figure with its words.

    Attributes:
      name: of its file, without the extension.
      alt: what can be seen, for those who cannot see it.
      caption: how to read it.
      draw: makes the figure in the present theme, see `style.theme`.
    """

    name: str
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
    pictures: tuple[Picture, ...]
    lacking: tuple[str, ...] = ()


def sections(study: Study, rows: style.Rows) -> tuple[Section, ...]:
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


_Content = tuple[tuple[Picture, ...], tuple[str, ...]]  # of a section: pictures, lacking


def _calibration(study: Study, rows: style.Rows) -> _Content:
    return (
        Picture(
            "reliability",
            f"Reliability diagram and confidence histogram of {_methods(rows)}.",
            "Accuracy of the predictions in each of 15 bins of confidence, on the test split. "
            "Hatched: the gap to the mean confidence of the bin; a bar above the diagonal is too "
            "modest, one below it too sure. ECE: the mean gap, weighted by the images in a bin. "
            f"Below: images in each bin, on a logarithmic axis.{_first_seeds(rows)}",
            functools.partial(calibration.reliability_diagrams, study, rows),
        ),
        Picture(
            "temperature",
            f"Calibration error before and after temperature scaling of {_methods(rows)}.",
            "Temperature scaling: T is fitted on a random half of the test split by the "
            "likelihood; the calibration errors are those of the other half. T above 1 means that "
            f"a network was too sure of itself.{_over_seeds(rows)}",
            functools.partial(calibration.temperature_scaling, study, rows),
        ),
    ), ()


def _embedding(study: Study, rows: style.Rows) -> _Content:
    examples = embedding.sample(study)
    classes = len(set(study.labels[examples].tolist()))
    shown = (
        f"The same {len(examples)} test images of every network, coloured by class, with the "
        "number of each class at its centre"
    )
    if classes < len(study.class_names):
        shown += f" ({classes} of the {len(study.class_names)} classes, where there is room)"
    pictures, lacking = [], []
    try:
        layout = embedding.layouts(style.firsts(study), examples)
    except UserError as error:
        lacking.append(f"No t-SNE: {error}.")
    else:
        pictures.append(
            Picture(
                "tsne",
                f"t-SNE of the embeddings of {_methods(rows)}.",
                f"t-SNE of the embeddings. {shown}. V: V-measure of the predicted against the true "
                f"classes, all test images.{_first_seeds(rows)}",
                functools.partial(embedding.tsne_panels, study, rows, layout, examples),
            )
        )
    pictures += [
        Picture(
            "pca",
            f"First two principal components of the embeddings of {_methods(rows)}.",
            f"The first two principal components, with the share of the variance that each "
            f"explains. {shown}.{_first_seeds(rows)}",
            functools.partial(embedding.pca_panels, study, examples),
        ),
        Picture(
            "spectrum",
            f"Singular values of the centred embeddings of {_methods(rows)}, in one plot.",
            "Singular values of the centred embeddings, divided by the largest: the faster they "
            f"fall, the fewer dimensions a network uses.{_first_seeds(rows)}",
            functools.partial(embedding.spectrum, study),
        ),
    ]
    return tuple(pictures), tuple(lacking)


def _activation(study: Study, rows: style.Rows) -> _Content:
    pictures, lacking = [], []
    shown = activation.images_shown(study)
    if shown:
        of = f"{shown} test images (rows) by {_methods(rows)} (columns)"
        pictures += [
            Picture(
                "attention",
                f"Attention maps of {of}, at the low, middle and high level.",
                "Attention maps (the sum of squares over the channels) of test images, at the low, "
                f"middle and high level. At the left: the true class.{_first_seeds(rows)}",
                functools.partial(activation.attention_maps, study),
            ),
            Picture(
                "gradcam",
                f"Grad-CAM of {of}, at the low, middle and high level.",
                "Grad-CAM: what in a feature map speaks for the predicted class, which stands "
                f"below; ✗ marks a mistake.{_first_seeds(rows)}",
                functools.partial(activation.grad_cams, study),
            ),
        ]
    else:
        lacking.append("No maps: the test split has no image to show.")
    if any(row.similarity for row in rows.values()):
        pictures.append(
            Picture(
                "distance",
                "Bars of mean cosine and AM loss between the attention maps of students and "
                "teacher, for each level.",
                "Students' attention maps against their teacher's, mean over the test split: "
                "cosine (1: the same map) and AM loss (0: the same map), with the margin "
                f"and scale of the config.{_over_seeds(rows)}",
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


def _angles(study: Study, rows: style.Rows) -> _Content:
    pictures = [
        Picture(
            "angles",
            f"Distribution of the angle between positive and negative map of {_methods(rows)}, for "
            "each level.",
            "Angle between the positive map q (attention, unit norm) and the negative map 1 − q, "
            "over the test split: 0° where attention is the same everywhere, 90° where it is all "
            f"in one position. Upright line: median.{_first_seeds(rows)}",
            functools.partial(angles.map_angles, study),
        )
    ]
    if all(
        "geodesic_intra" in row.scores and "geodesic_inter" in row.scores for row in rows.values()
    ):
        pictures.append(
            Picture(
                "geodesic",
                f"Geodesic distances of embeddings in and between classes, of {_methods(rows)}.",
                "Geodesic distance (angle) of pairs of embeddings of one class and of two classes, "
                "about 1,000 test images. The angular-margin contrastive loss is to bring the "
                f"former together and the latter apart.{_over_seeds(rows)}",
                functools.partial(angles.geodesic, study, rows, angles.class_distances(study)),
            )
        )
        return tuple(pictures), ()
    return tuple(pictures), (
        "No geodesic distances: that needs test images of two classes, and two of one class.",
    )


def _training(study: Study, rows: style.Rows) -> _Content:
    pictures, lacking = [], []
    if training.has_curve(study, "test", "accuracy"):
        pictures.append(
            Picture(
                "accuracy",
                f"Test accuracy over the training steps of {_methods(rows)}.",
                f"Accuracy on the test split while training.{_over_seeds(rows)}",
                functools.partial(training.accuracy_curves, study),
            )
        )
    else:
        lacking.append("No curve of the accuracy: no metrics.jsonl holds an evaluation yet.")
    if training.has_curve(study, "train", "loss"):
        pictures.append(
            Picture(
                "losses",
                f"Total loss and each of its parts over the training steps of {_methods(rows)}.",
                "Total loss and its parts on the training batches, the parts without their "
                f"weights.{_over_seeds(rows)}",
                functools.partial(training.loss_curves, study),
            )
        )
    else:
        lacking.append("No curve of the loss: no metrics.jsonl holds a line of training yet.")
    if any(row.am_distance for row in rows.values()):
        pictures.append(
            Picture(
                "am_accuracy",
                "Test accuracy of each student over its AM loss to the teacher's maps.",
                "Accuracy over the AM loss, one mark for each run (Figure 6 of the AMD paper).",
                functools.partial(training.am_against_accuracy, study, rows),
            )
        )
    else:
        lacking.append(_NO_DISTANCE)
    return tuple(pictures), tuple(lacking)


def _sweeps(study: Study, rows: style.Rows) -> _Content:
    if not study.sweeps:
        return (), (
            "Nothing was swept: --config.sweep.key=losses.am.weight "
            '--config.sweep.values="(1000.0, 3000.0, 5000.0)" would show the accuracy over γ, '
            "losses.am.margin that over m, and losses.am.terms that of each term of the AM loss.",
        )
    return tuple(
        Picture(
            f"sweep-{key.removeprefix('losses.').replace('.', '-')}",
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


def _over_seeds(rows: style.Rows) -> str:
    return " Mean ± standard deviation over the seeds." if _several(rows) else ""
