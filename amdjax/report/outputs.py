"""Outputs of networks for the test split, and the distance of their maps to a teacher's."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.angles import map_angles, map_cosine
from amdjax.data import Dataset, EvalBatches
from amdjax.errors import UserError
from amdjax.losses import am_loss
from amdjax.predictor import Predictor
from amdjax.report.report_data import LEVELS
from amdjax.trained import TrainedModel

LAYERS = tuple(LEVELS)  # of 32, 16 and 8 pixels for images of 32

# Outputs of one network: a tree of arrays whose first axis is that of the images.
TestOutputs = dict[str, Any]


def evaluate_networks(
    networks: Sequence[TrainedModel],
    compared: dict[str, str],
    dataset: Dataset,
    batch_size: int,
    margin: float,
    scale: float,
) -> tuple[dict[str, TestOutputs], np.ndarray]:
    """Makes one pass over the test split, with the teachers before the students.

    Args:
      networks: the teachers first.
      compared: from `comparison_teachers`.
      dataset: of the test split.
      batch_size: of the forward passes.
      margin: of the AM loss.
      scale: of the AM loss.

    Returns:
      The outputs by the network's name, and the labels [N].
    """
    count = len(dataset.test)
    outputs: dict[str, TestOutputs] = {}
    labels = np.empty(count, np.int32)
    first = 0
    with tqdm(total=count, desc="test split", unit=" images", disable=None) as bar:
        for batch in EvalBatches(dataset.test, batch_size):
            mask = batch["mask"]
            rows = slice(first, first + mask.sum())
            teachers: dict[str, dict[str, jax.Array]] = {}
            for network in networks:
                part, features = _forward(network.predictor, network.variables, batch["image"])
                if network.is_teacher:
                    teachers[network.name] = features
                teacher = teachers.get(compared.get(network.name, ""), {})
                part = jax.device_get(part | compare_maps(features, teacher, margin, scale))
                if network.name not in outputs:
                    outputs[network.name] = _allocate(part, count)
                leaves = map(jax.tree.leaves, (outputs[network.name], part))
                for whole, values in zip(*leaves, strict=True):
                    whole[rows] = values[mask]
            labels[rows] = batch["label"][mask]
            bar.update(rows.stop - first)
            first = rows.stop
    return outputs, labels


def _allocate(outputs: TestOutputs, count: int) -> TestOutputs:
    """Returns uninitialised arrays like the outputs, but for `count` examples."""
    return jax.tree.map(lambda x: np.empty((count, *x.shape[1:]), x.dtype), outputs)


def drop_not_finite(
    networks: Sequence[TrainedModel], compared: dict[str, str], outputs: dict[str, TestOutputs]
) -> tuple[list[TrainedModel], list[str]]:
    """Returns the networks with finite outputs, and a sentence for each of the others.

    The comparisons with a teacher whose outputs are not finite are removed.
    """
    finite, skipped = [], []
    for network in networks:
        predicted = [outputs[network.name][key] for key in ("logits", "embedding", "angles")]
        if all(np.isfinite(x).all() for x in jax.tree.leaves(predicted)):
            finite.append(network)
        else:
            skipped.append(f"{network.name}: skipped: its outputs contain NaN or Inf")
    names = {network.name for network in finite}
    for network in finite:
        if compared.get(network.name) not in names:
            outputs[network.name] |= {"similarity": {}, "am": {}}
    return finite, skipped


@functools.partial(distributed.jit, static_argnames="predictor")
def _forward(
    predictor: Predictor, variables: dict, images: jax.Array
) -> tuple[TestOutputs, dict[str, jax.Array]]:
    """Returns the outputs for images uint8 [B,H,W,3], and the features [B,h,w,c]."""
    outputs = predictor(variables, images)
    features = {layer: outputs.features[layer] for layer in LAYERS if layer in outputs.features}
    angles = {layer: map_angles(feature) for layer, feature in features.items()}
    return {"logits": outputs.logits, "embedding": outputs.embedding, "angles": angles}, features


@distributed.jit
def compare_maps(
    student: dict[str, jax.Array], teacher: dict[str, jax.Array], margin: float, scale: float
) -> TestOutputs:
    """Measures the distance of a student's attention maps to a teacher's.

    Args:
      student: layer -> float [B,h,w,c].
      teacher: layer -> float [B,h',w',c'], of the same layers, or {}.
      margin: of the AM loss.
      scale: of the AM loss.

    Returns:
      {"similarity": layer -> `map_cosine`, "am": layer -> AM loss of the whole map}, float32 [B];
      layers that the student does not have, or where the size of one map is not a multiple of the
      other, are left out.
    """
    comparison: TestOutputs = {"similarity": {}, "am": {}}
    for layer in [layer for layer in teacher if layer in student]:
        pair = student[layer], teacher[layer]
        try:
            comparison["similarity"][layer] = map_cosine(*pair)
            comparison["am"][layer] = am_loss(*pair, margin, scale)
        except UserError:
            continue
    return comparison
