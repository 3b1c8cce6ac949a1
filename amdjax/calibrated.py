"""Trained networks with their calibration temperature, which is fitted once on held-out images."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.calibration import fit_temperature, split_half
from amdjax.analysis.gradcam import grad_cam
from amdjax.data import Dataset
from amdjax.data.fingerprint import Fingerprint, compare_classes, compare_test_images
from amdjax.errors import UserError, note, warn
from amdjax.files import write_atomically
from amdjax.models import variables_digest
from amdjax.predictor import Predictor
from amdjax.trained import TrainedModel
from amdjax.workdir import load_data_again

BATCH_SIZE = 32  # of every forward pass, so that one executable is compiled
CACHE_FILE = "temperatures.json"


@dataclasses.dataclass(frozen=True)
class CalibratedModel:
    """A network with its calibration temperature; None: not calibrated, T = 1."""

    network: TrainedModel
    temperature: float | None = None

    @property
    def name(self) -> str:
        """The run's folder in the workdir."""
        return self.network.name

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns `softmax(logits / temperature)`, float32 [B,C], of images uint8 [B,H,W,3]."""
        logits = np.asarray(self.network.logits(images))
        return scipy.special.softmax(logits / np.float32(self.temperature or 1.0), axis=1)

    def grad_cam(self, images: np.ndarray, layer: str | None = None) -> np.ndarray:
        """Returns Grad-CAM of the predicted class.

        Args:
          images: uint8 [B,H,W,3].
          layer: of the feature map, "stem", "stage1", ...; None: the last stage.

        Returns:
          float32 [B,h,w], not negative.

        Raises:
          UserError: if the network has no such layer, or none at all.
        """
        return np.asarray(_grad_cam(self.network.predictor, self.network.variables, images, layer))


def calibrate(
    networks: Sequence[TrainedModel],
    workdir: Path,
    data_settings: ml_collections.ConfigDict,
    data: Fingerprint,
) -> list[CalibratedModel]:
    """Finds the temperatures of networks, in the workdir or by fitting them.

    Args:
      networks: of one data set; the first was trained in the workdir.
      workdir: where the temperatures are stored.
      data_settings: from `run_data`.
      data: fingerprint of the data set.

    Returns:
      The networks; the temperature is None where it cannot be fitted, and stderr says why. Those
      that are fitted on other images than the networks were evaluated on are not stored.
    """
    temperatures = _read_cache(workdir / CACHE_FILE)
    digests = [variables_digest(network.variables) for network in networks]
    missing = [pair for pair in zip(digests, networks, strict=True) if pair[0] not in temperatures]
    fitted, are_same = _fit_all(missing, data_settings, data) if missing else ({}, False)
    temperatures |= fitted
    if fitted and are_same:
        try:
            write_atomically(workdir / CACHE_FILE, json.dumps(temperatures, indent=2) + "\n")
        except OSError as error:
            warn(f"cannot store the temperatures: {error}")
    return [
        CalibratedModel(network, temperatures.get(digest))
        for digest, network in zip(digests, networks, strict=True)
    ]


def _read_cache(path: Path) -> dict[str, float]:
    """Returns the stored temperatures by digest of the network's variables, else none."""
    try:
        return {str(digest): float(value) for digest, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # missing or damaged


def _fit_all(
    networks: Sequence[tuple[str, TrainedModel]],
    data_settings: ml_collections.ConfigDict,
    data: Fingerprint,
) -> tuple[dict[str, float], bool]:
    """Fits the temperatures of networks.

    Returns:
      The temperatures by digest, without those that cannot be fitted, and whether the test images
      may be those of the fingerprint.
    """
    names = " and ".join(network.name for _, network in networks)
    try:
        dataset = load_data_again(data_settings)
        if difference := compare_classes(data, dataset.fingerprint):
            raise UserError(f"the data have other classes now ({difference})")
    except UserError as error:
        warn(f"{names}: not calibrated: {error}")
        return {}, False
    if change := compare_test_images(data, dataset.fingerprint):
        warn(f"{names}: calibrated on other images ({change})")
    temperatures = {}
    for digest, network in networks:
        try:
            temperatures[digest] = _fit(network, dataset)
        except UserError as error:
            warn(f"{network.name}: not calibrated: {error}")
    return temperatures, not change


def _fit(network: TrainedModel, dataset: Dataset) -> float:
    """Fits on the validation split, or without one on the half of the test split of the report."""
    source = dataset.selection
    fit = split_half(len(source))[0] if dataset.validation is None else np.arange(len(source))
    split = dataset.selection_split
    note(f"{network.name}: fitting the temperature on {len(fit)} {split} images (once)")
    logits, labels = [], []
    for start in tqdm(range(0, len(fit), BATCH_SIZE), disable=None, leave=False):
        rows = fit[start : start + BATCH_SIZE]
        images, classes = source.read(np.resize(rows, BATCH_SIZE))  # repeated to a full batch
        logits.append(np.asarray(network.logits(images))[: len(rows)])
        labels.append(classes[: len(rows)])
    return fit_temperature(np.concatenate(logits), np.concatenate(labels))


@functools.partial(distributed.jit, static_argnums=(0, 3))
def _grad_cam(
    predictor: Predictor, variables: dict, images: jax.Array, layer: str | None
) -> jax.Array:
    outputs, inputs = predictor(variables, images), predictor.normalize(images)
    if not outputs.features:
        raise UserError("the network records no feature maps, so it has no Grad-CAM")
    stages = [name for name in outputs.features if name.startswith("stage")]
    layer = layer or max(stages or outputs.features)
    predicted = jnp.argmax(outputs.logits, axis=-1)
    return grad_cam(
        predictor.network, variables, inputs, predicted, layer, predictor.bind(variables)
    )
