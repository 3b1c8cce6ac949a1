"""A student and its teacher, ready to be asked about anybody's images."""

import dataclasses
import functools
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.calibration import fit_temperature, split_half
from amdjax.analysis.gradcam import grad_cam
from amdjax.config import TEACHER, plan_runs, read_config
from amdjax.data import Dataset, EvalBatches, load_dataset, prefetch
from amdjax.errors import UserError, unknown_name
from amdjax.report.summary import HALVES_SEED
from amdjax.training.metric_writer import write_atomically
from amdjax.workdir import (
    Predictor,
    TrainedModel,
    forward,
    has_checkpoint,
    phase_names,
    restore,
    restore_imported_teacher,
)

BATCH_SIZE = 32  # of every forward pass here, so that one program does for all
CACHE_FILE = "temperatures.json"
_DATA_KEYS = ("name", "folder", "image_size", "random_resized_crop")


@dataclasses.dataclass(frozen=True)
class CalibratedModel:
    """A network with the temperature that calibrates it."""

    network: TrainedModel
    temperature: float

    @property
    def name(self) -> str:
        """The phase's folder in the workdir."""
        return self.network.name

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns `softmax(logits / temperature)`, float32 [B,C], of images uint8 [B,H,W,3]."""
        logits = forward(self.network.kind, self.network.variables, images)
        return scipy.special.softmax(np.asarray(logits) / np.float32(self.temperature), axis=1)

    def grad_cam(self, images: np.ndarray, layer: str | None = None) -> np.ndarray:
        """Returns where the evidence for the predicted class is.

        Args:
          images: uint8 [B,H,W,3].
          layer: of the feature map, "stem", "stage1", ...; None: the last stage, the usual one.

        Returns:
          Grad-CAM, float32 [B,h,w], not negative.

        Raises:
          UserError: if the network has no such layer.
        """
        return np.asarray(_cam(self.network.kind, self.network.variables, images, layer))


@dataclasses.dataclass(frozen=True)
class LoadedModels:
    """What a workdir has to say about an image.

    Attributes:
      networks: the student, and its teacher where there is one.
      class_names: in the order of the labels.
      side: of the images that the networks take, in pixels.
      tight_crop: whether of an image they see 224/256 of its centre square alone.
    """

    networks: tuple[CalibratedModel, ...]
    class_names: tuple[str, ...]
    side: int
    tight_crop: bool


def load_models(
    workdir: Path, method: str | None = None, data_dir: str | None = None
) -> LoadedModels:
    """Reads a student and its teacher from a workdir, and calibrates them.

    The temperatures are fitted on that half of the test split on which the report fits them. They
    are kept in the workdir, with a digest of the network's variables, so that the data are needed
    once alone.

    Args:
      workdir: of a run.
      method: of the student, or its folder in the workdir; None: the last one of the config that
        has a checkpoint.
      data_dir: where the prepared data lie, if not where the run had them.

    Raises:
      UserError: if the student cannot be read, or the data are needed and cannot be read.
    """
    config = read_config(workdir)
    if data_dir is not None:
        config.data.data_dir = data_dir
    config.data.memory_gib = 0.0  # no image is read twice
    student = _find_student(workdir, config, method)
    open_data = functools.cache(lambda: load_dataset(config.data))
    known = _read_cache(workdir / CACHE_FILE, config)
    before = json.dumps(known)
    if not known["class_names"]:
        known["class_names"] = open_data().class_names
        known["side"] = open_data().image_shape[0]
    num_classes = len(known["class_names"])

    networks = [restore(workdir / student, num_classes)]
    if not networks[0].is_teacher:
        try:
            networks.append(_teacher_of(networks[0], workdir, config, num_classes))
        except UserError as error:
            print(f"without a teacher: {error}", file=sys.stderr)
    classifiers = []
    for network in networks:
        digest, entry = _digest(network.variables), known["temperatures"].get(network.name, {})
        if entry.get("digest") != digest:
            entry = {"digest": digest, "temperature": _fit(network, open_data())}
            known["temperatures"][network.name] = entry
        classifiers.append(CalibratedModel(network, entry["temperature"]))
    if json.dumps(known) != before:
        try:
            write_atomically(workdir / CACHE_FILE, json.dumps(known, indent=2) + "\n")
        except OSError as error:
            print(f"the temperatures are not kept: {error}", file=sys.stderr)
    return LoadedModels(
        tuple(classifiers),
        tuple(known["class_names"]),
        known["side"],
        config.data.random_resized_crop,
    )


def _find_student(workdir: Path, config: ml_collections.ConfigDict, method: str | None) -> str:
    """Returns the phase of a method, the first of its seeds that has a checkpoint."""
    names = phase_names(workdir, config)
    if method is None:
        wanted = [phase.method for phase in reversed(plan_runs(config)) if not phase.is_teacher]
    elif method in names or method in map(_without_seed, names):
        wanted = [method]
    else:
        raise unknown_name("method of this workdir", method, names)
    trained = [name for name in names if has_checkpoint(workdir / name)]
    for one in wanted:
        for name in trained:
            if one in (name, _without_seed(name)):
                return name
    return wanted[0]  # is not there yet, as `restore` will say


def _without_seed(name: str) -> str:
    return re.sub(r"-seed\d+$", "", name)


def _teacher_of(
    student: TrainedModel, workdir: Path, config: ml_collections.ConfigDict, num_classes: int
) -> TrainedModel:
    if config.teacher.checkpoint and student.teacher == TEACHER:
        return restore_imported_teacher(config, num_classes)
    return restore(workdir / student.teacher, num_classes)


def _read_cache(path: Path, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns what is kept of the same data, or else an empty record."""
    data = {key: config.data[key] for key in _DATA_KEYS}
    try:
        known = json.loads(path.read_text())
        if known["data"] == data:
            return {
                "data": data,
                "class_names": [str(name) for name in known["class_names"]],
                "side": int(known["side"]),
                "temperatures": {
                    name: {"digest": entry["digest"], "temperature": float(entry["temperature"])}
                    for name, entry in known["temperatures"].items()
                },
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # it is not there yet, or of no use
    return {"data": data, "class_names": [], "side": 0, "temperatures": {}}


def _digest(variables: dict) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def _fit(network: TrainedModel, dataset: Dataset) -> float:
    fit, _ = split_half(len(dataset.test), HALVES_SEED)
    print(
        f"{network.name}: fitting the temperature on {len(fit)} test images (once)",
        file=sys.stderr,
    )
    batches = EvalBatches(dataset.test, BATCH_SIZE)
    logits, labels = [], []
    bar = tqdm(prefetch(batches, 0, len(batches)), total=len(batches), disable=None, leave=False)
    for batch in bar:
        answer = np.asarray(forward(network.kind, network.variables, batch["image"]))
        logits.append(answer[batch["mask"]])
        labels.append(batch["label"][batch["mask"]])
    return fit_temperature(np.concatenate(logits)[fit], np.concatenate(labels)[fit])


@functools.partial(distributed.jit, static_argnums=(0, 3))
def _cam(kind: Predictor, variables: dict, images: jax.Array, layer: str | None) -> jax.Array:
    outputs, inputs = kind(variables, images), kind.normalize(images)
    layer = layer or max(name for name in outputs.features if name.startswith("stage"))
    predicted = jnp.argmax(outputs.logits, axis=-1)
    return grad_cam(kind.module, variables, inputs, predicted, layer, kind.predict)
