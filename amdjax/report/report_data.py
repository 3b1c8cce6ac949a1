"""What was found out about the networks of a workdir: plain arrays, ready to be shown."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from amdjax.config import TEACHERS

LEVELS = {"stage1": "low", "stage2": "middle", "stage3": "high"}  # layers whose maps are looked at


@dataclasses.dataclass(frozen=True)
class Network:
    """One trained network: a phase of a workdir, and what it says of the test split.

    N is the number of test examples, K that of the images that are shown, C of the classes.

    Attributes:
      name: the phase's folder, for instance "teacher", "amd_gl", "kd-seed1".
      method: "teacher", "teacher_early" or the students' method, with the swept value behind it
        ("amd_gl-margin=1.5"); networks that differ in the seed alone share it.
      seed: of its training.
      model: name of the architecture.
      swept: the setting of a loss, "losses.am.margin", of which `method` has a value; else "".
      step: the training step that the weights are of.
      parameters: their number.
      flops: floating-point operations of one image's forward pass, as XLA counts them for a CPU: a
        multiplication and an addition are two, and none falls on padding; 0 where it cannot.
      images_per_s: of the forward pass in whole batches, on the machine and the device that made
        the study. Like `flops` it is that of the architecture, which networks share.
      logits: float32 [N,C], of the predicted probabilities.
      embedding: float32 [N,D].
      angles: layer -> float32 [N], see `map_angles`, in degrees.
      similarity: layer -> float32 [N], `map_cosine` with the map of its teacher, or of "teacher" if
        it was trained without one; {} for a teacher, or where there is none. A layer is left out
        where the sizes of the two maps are no multiples.
      am_distance: layer -> float, the mean AM loss to that teacher, with the config's margin and
        scale for all students alike; the layers are those of `similarity`.
      maps: layer -> float32 [K,h,w], attention maps of unit norm.
      cams: layer -> float32 [K,h,w], Grad-CAM of the predicted class, not negative.
      curve: the lines of `metrics.jsonl`; [] for a teacher that was trained elsewhere.
    """

    name: str
    method: str
    seed: int
    model: str
    swept: str
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

    @property
    def is_teacher(self) -> bool:
        """Whether it taught the others."""
        return self.method in TEACHERS

    @property
    def base(self) -> str:
        """Its method without the value that was swept."""
        behind = f"-{self.swept.rpartition('.')[2]}="  # see `RunSpec`
        return self.method.rpartition(behind)[0] if self.swept else self.method


@dataclasses.dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
      workdir: where the networks were trained.
      data: name of the data set.
      class_names: in the order of the labels; () where there are no networks, and all arrays
        are empty.
      labels: int32 [N], of the test split.
      shown: int [K], which test examples are shown as images.
      disputed: whether these are the ones that the networks disagree on most; else they were
        asked for.
      images: uint8 [K,H,W,3], these.
      networks: the teachers first, then the students in the order of the config's methods, then
        what other runs left in the workdir.
      missing: sentences about what was looked for and not found.
      config: that of the workdir's last run.
    """

    workdir: Path
    data: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    shown: np.ndarray
    disputed: bool
    images: np.ndarray
    networks: tuple[Network, ...]
    missing: tuple[str, ...]
    config: dict[str, Any]

    @property
    def sweeps(self) -> dict[str, tuple[str, ...]]:
        """The settings that were swept, and the methods that have a value of each."""
        sweeps: dict[str, dict[str, None]] = {}
        for network in self.networks:
            if network.swept:
                sweeps.setdefault(network.swept, {})[network.method] = None
        return {key: tuple(methods) for key, methods in sweeps.items()}
