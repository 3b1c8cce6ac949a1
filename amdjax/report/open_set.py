"""Open-set evaluation: the networks' scores of test images and of images of unknown classes."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.open_set import (
    auroc,
    fpr_at_tpr,
    max_log_probability,
    nearest_mean_cosine,
    negative_energy,
)
from amdjax.data import Batch, Dataset, EvalBatches, ImageSource
from amdjax.predictor import Predictor
from amdjax.trained import TrainedModel

OPEN_SET_SCORES = {"msp": "MSP", "energy": "energy", "angle": "angle"}  # name -> heading


def evaluate_open_set(
    networks: Sequence[TrainedModel],
    known: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    unknown: ImageSource,
    batch_size: int,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Measures how well each network tells the test images from images of unknown classes.

    The class means are those of the embeddings of the training images, without augmentation; with
    `config.data.random_resized_crop` of one random crop of each.

    Args:
      networks: of the classes of the data set.
      known: the network's name -> "logits" float [N,C] and "embedding" float [N,D] of the test
        images.
      dataset: its training images are read once.
      unknown: M images of other classes.
      batch_size: of the forward passes.

    Returns:
      The network's name -> {"msp_auroc", "msp_fpr95", "energy_auroc", "energy_fpr95",
      "angle_auroc", "angle_fpr95"} -> value in [0, 1], see `amdjax.analysis.open_set`; and a
      sentence for each network that is left out, because a score is not finite.
    """
    means = _class_means(networks, dataset, batch_size)
    parts: dict[str, list[dict[str, np.ndarray]]] = {network.name: [] for network in networks}
    for batch in _batches(unknown, batch_size, "unknown images"):
        for network in networks:
            logits, embedding = _forward_valid(network, batch)
            parts[network.name].append(score(logits, embedding, means[network.name]))
    results, skipped = {}, []
    for name in parts:
        of_known = score(known[name]["logits"], known[name]["embedding"], means[name])
        of_unknown = {
            key: np.concatenate([part[key] for part in parts[name]]) for key in OPEN_SET_SCORES
        }
        arrays = (*of_known.values(), *of_unknown.values())
        if all(np.isfinite(values).all() for values in arrays):
            results[name] = measure(of_known, of_unknown)
        else:
            skipped.append(f"{name}: no open-set evaluation: its scores contain NaN or Inf")
    return results, skipped


def score(logits: np.ndarray, embedding: np.ndarray, means: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores of `OPEN_SET_SCORES`, float64 [N].

    Args:
      logits: float [N,C].
      embedding: float [N,D].
      means: float [C,D], of the embeddings of each class.
    """
    return {
        "msp": max_log_probability(logits),
        "energy": negative_energy(logits),
        "angle": nearest_mean_cosine(embedding, means),
    }


def measure(known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns AUROC ("NAME_auroc") and FPR at 95 % TPR ("NAME_fpr95") of each score.

    Args:
      known: name of the score -> float [N].
      unknown: name of the score -> float [M].
    """
    measures = {"auroc": auroc, "fpr95": fpr_at_tpr}
    return {
        f"{name}_{key}": function(known[name], unknown[name])
        for name in known
        for key, function in measures.items()
    }


def _class_means(
    networks: Sequence[TrainedModel], dataset: Dataset, batch_size: int
) -> dict[str, np.ndarray]:
    """Returns the mean training embeddings of the classes that have images, for each network."""
    sums: dict[str, np.ndarray] = {}
    counts = np.zeros(dataset.num_classes, np.int64)
    for batch in _batches(dataset.train, batch_size, "training images"):
        labels = batch["label"][batch["mask"]]
        counts += np.bincount(labels, minlength=len(counts))
        for network in networks:
            _, embedding = _forward_valid(network, batch)
            if network.name not in sums:
                sums[network.name] = np.zeros([len(counts), embedding.shape[1]])
            np.add.at(sums[network.name], labels, embedding)
    present = counts > 0
    return {name: total[present] / counts[present, None] for name, total in sums.items()}


def _batches(source: ImageSource, batch_size: int, description: str) -> Iterator[Batch]:
    with tqdm(total=len(source), desc=description, unit=" images", disable=None) as bar:
        for batch in EvalBatches(source, batch_size):
            yield batch
            bar.update(int(batch["mask"].sum()))


def _forward_valid(network: TrainedModel, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits [n,C] and embedding [n,D] of the rows of a batch that are not padding."""
    outputs = jax.device_get(_forward(network.predictor, network.variables, batch["image"]))
    return tuple(values[batch["mask"]] for values in outputs)


@functools.partial(distributed.jit, static_argnames="predictor")
def _forward(
    predictor: Predictor, variables: dict, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B,C] and embedding [B,D] of images, uint8 [B,H,W,3]."""
    outputs = predictor(variables, images)
    return outputs.logits, outputs.embedding
