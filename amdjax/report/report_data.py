"""Evaluation results of the networks of a workdir, as plain arrays: the input of the report."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from amdjax.experiment import RunIdentity
from amdjax.models.layers import STAGES

LEVELS = dict(zip(STAGES, ("low", "middle", "high"), strict=True))  # layers whose maps are drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult(RunIdentity):
    """The results of one trained network on the test split.

    N is the number of test examples, K the number of sample images, C the number of classes.

    Attributes:
      name: the run's folder, for instance "teacher", "amd_gl", "kd-seed1".
      model: name of the architecture.
      step: the training step of the weights.
      parameters: `count_prediction_parameters`.
      flops: floating-point operations of one image's forward pass, as XLA counts them for a CPU:
        a multiplication and an addition count as two, and operations on padding do not count;
        0 if unknown.
      images_per_s: speed of the forward pass in whole batches, on the device that evaluated the
        network; measured, like `flops`, once for networks of the same definition.
      logits: float32 [N,C], whose softmax are the predicted probabilities.
      embedding: float32 [N,D].
      angles: layer -> float32 [N], see `map_angles`, in degrees.
      similarity: layer -> float32 [N], `map_cosine` with the map of its teacher, or of "teacher" if
        it was trained without one; {} for a teacher, or if there is no teacher. Layers where the
        size of one map is not a multiple of the other are left out.
      am_distance: layer -> float, the mean AM loss to that teacher, with the config's margin and
        scale for all students; the layers are those of `similarity`.
      maps: layer -> float32 [K,h,w], attention maps of unit norm.
      cams: layer -> float32 [K,h,w], Grad-CAM of the predicted class, not negative.
      curve: the lines of `metrics.jsonl`; [] for a teacher that was trained elsewhere.
      open_set: name -> value, see `evaluate_open_set`; {} without images of unknown classes.
    """

    name: str
    model: str
    step: int
    parameters: int
    flops: float
    images_per_s: float
    logits: np.ndarray
    embedding: np.ndarray
    angles: dict[str, np.ndarray]
    similarity: dict[str, np.ndarray]
    am_distance: dict[str, float]
    maps: dict[str, np.ndarray]
    cams: dict[str, np.ndarray]
    curve: list[dict[str, Any]]
    open_set: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportData:
    """The contents of a report.

    Attributes:
      workdir: where the networks were trained.
      data: name of the data set.
      class_names: in the order of the labels; () if there are no networks, and then all arrays
        are empty.
      labels: int32 [N], of the test split.
      samples: int [K], indices of the test images whose maps are drawn.
      by_disagreement: whether the samples are those that the networks disagree on most; else the
        user chose them.
      images: uint8 [K,H,W,3], the samples.
      networks: the teachers first, then the students in the order of the config's methods, then
        those of earlier commands.
      notes: sentences about missing or incomplete results.
      config: of the workdir's last command.
      unknown: the images of unknown classes, such as "360 images of mnist"; "" without any.
      not_compared: label -> seeds of the students that no test compares with the baseline, since
        not the method alone differs, or their training is not finished.
    """

    workdir: Path
    data: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    samples: np.ndarray
    by_disagreement: bool
    images: np.ndarray
    networks: tuple[ModelResult, ...]
    notes: tuple[str, ...]
    config: dict[str, Any]
    unknown: str = ""
    not_compared: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def by_label(self) -> dict[str, tuple[ModelResult, ...]]:
        """The networks of each method and swept value, one for each seed."""
        groups: dict[str, list[ModelResult]] = {}
        for network in self.networks:
            groups.setdefault(network.label, []).append(network)
        return {label: tuple(networks) for label, networks in groups.items()}

    @property
    def first_seeds(self) -> tuple[ModelResult, ...]:
        """The network of the first seed of each method and swept value."""
        return tuple(networks[0] for networks in self.by_label.values())

    @property
    def sweeps(self) -> dict[str, tuple[str, ...]]:
        """The swept settings, and the labels of the networks of each."""
        sweeps: dict[str, dict[str, None]] = {}
        for network in self.networks:
            if network.sweep_key:
                sweeps.setdefault(network.sweep_key, {})[network.label] = None
        return {key: tuple(labels) for key, labels in sweeps.items()}
