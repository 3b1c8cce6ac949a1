"""Calibrated models of a workdir, a student and its teacher, and a table of their predictions."""

import dataclasses
import functools
import hashlib
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special
from tabulate import tabulate
from tqdm import tqdm

from amdjax import distributed
from amdjax.analysis.calibration import fit_temperature, split_half
from amdjax.analysis.gradcam import grad_cam
from amdjax.checkpoint_files import has_checkpoint
from amdjax.comparison import learned_from
from amdjax.config import gives_network
from amdjax.data import Dataset
from amdjax.data.fingerprint import Fingerprint, compare_classes, compare_test_images
from amdjax.errors import UserError, unknown_name, warn
from amdjax.experiment import TEACHER, plan_runs
from amdjax.files import write_atomically
from amdjax.methods import canonical_method_name
from amdjax.predictor import Predictor
from amdjax.run_description import read_label
from amdjax.trained import TrainedModel, restore, restore_given_teacher, run_names
from amdjax.workdir import UNMOVED, DataPaths, load_data_again, read_config, run_data

BATCH_SIZE = 32  # of every forward pass, so that one executable is compiled
CACHE_FILE = "temperatures.json"
_TOP = 5


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


@dataclasses.dataclass(frozen=True)
class LoadedModels:
    """The models of a workdir that classify an image, and their preprocessing.

    Attributes:
      models: the student, then its teacher if there is one.
      class_names: in the order of the labels.
      image_size: side of the input images in pixels.
      imagenet_crop: whether the input is 224/256 of an image's centre square.
    """

    models: tuple[CalibratedModel, ...]
    class_names: tuple[str, ...]
    image_size: int
    imagenet_crop: bool


def load_models(
    workdir: Path, method: str | None = None, paths: DataPaths = UNMOVED
) -> LoadedModels:
    """Reads a student and its teacher from a workdir, and calibrates them.

    The temperatures are fitted on the same half of the test split as in the report. They are stored
    in the workdir with a digest of the network's variables, so that later calls do not need the
    data. A network whose temperature cannot be fitted is not calibrated, and stderr says so.

    Args:
      workdir: of an experiment.
      method: of the student, or its folder in the workdir; None: the last student of the config
        that has a checkpoint.
      paths: where the data are now, if they were moved.

    Raises:
      UserError: if the student cannot be read, or its images are not square.
    """
    config = read_config(workdir)
    networks = [restore(workdir / find_student(workdir, config, method))]
    data = networks[0].data
    assert data is not None, "`restore` returns networks with their data"
    height, width, _ = data.image_shape
    if height != width:
        folder = workdir / networks[0].name
        raise UserError(
            f"{folder} was trained on images of {height}x{width}, and image files are cropped to "
            f"squares; classify arrays in Python: amdjax.load_run({str(folder)!r}).logits(images)"
        )
    if not networks[0].is_teacher:
        try:
            networks.append(_teacher_of(networks[0], workdir, config, data))
        except UserError as error:
            print(f"without a teacher: {error}", file=sys.stderr)
    models = calibrate(networks, workdir, run_data(config.data, networks[0].settings, paths), data)
    return LoadedModels(
        models=tuple(models),
        class_names=data.class_names,
        image_size=data.image_shape[0],
        imagenet_crop=networks[0].imagenet_crop,
    )


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
    digests = [_digest(network.variables) for network in networks]
    missing = [pair for pair in zip(digests, networks, strict=True) if pair[0] not in temperatures]
    fitted, are_same = _fit_all(missing, data_settings, data) if missing else ({}, False)
    temperatures |= fitted
    if fitted and are_same:
        try:
            write_atomically(workdir / CACHE_FILE, json.dumps(temperatures, indent=2) + "\n")
        except OSError as error:
            print(f"cannot store the temperatures: {error}", file=sys.stderr)
    return [
        CalibratedModel(network, temperatures.get(digest))
        for digest, network in zip(digests, networks, strict=True)
    ]


def format_table(probabilities: dict[str, np.ndarray], class_names: Sequence[str]) -> str:
    """Returns a table of the five most probable classes of an image, for each network.

    Args:
      probabilities: name of the network -> float [C].
      class_names: in the order of the labels.
    """
    rows = [[str(rank)] for rank in range(1, min(_TOP, len(class_names)) + 1)]
    for values in probabilities.values():
        best = np.argsort(-values, kind="stable")[:_TOP]
        for row, label in zip(rows, best, strict=True):
            row += [class_names[label], f"{100 * values[label]:.2f} %"]
    headers = ["", *(cell for name in probabilities for cell in (name, ""))]
    align = ["left", *["left", "right"] * len(probabilities)]
    table = tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True)
    return textwrap.indent("\n".join(line.rstrip() for line in table.splitlines()), "  ")


def find_student(workdir: Path, config: ml_collections.ConfigDict, method: str | None) -> str:
    """Returns the name of a method's folder: its first seed that has a checkpoint.

    Args:
      workdir: of an experiment.
      config: of that experiment.
      method: of the student, or its folder in the workdir; None: the last student of the config
        that has a checkpoint.

    Raises:
      UserError: if there is no such method.
    """
    names = run_names(workdir, config)
    labels = {name: read_label(workdir / name) or name for name in names}
    if method is None:
        wanted = [spec.label for spec in reversed(plan_runs(config)) if not spec.is_teacher]
    elif method in names or method in labels.values():
        wanted = [method]
    elif canonical_method_name(method) in labels.values():
        wanted = [canonical_method_name(method)]
    else:
        raise unknown_name("method of this workdir", method, {*names, *labels.values()})
    trained = [name for name in names if has_checkpoint(workdir / name)]
    for label in wanted:
        for name in trained:
            if label in (name, labels[name]):
                return name
    return wanted[0]  # has no checkpoint yet; `restore` raises the error


def _teacher_of(
    student: TrainedModel, workdir: Path, config: ml_collections.ConfigDict, data: Fingerprint
) -> TrainedModel:
    """Returns the teacher that a student learned from, or the last command's if it had none.

    Raises:
      UserError: if it cannot be read, or is not the one that the student learned from.
    """
    learned = student.settings.get("teacher", {})
    if learned.get("checkpoint") == "":  # trained in the workdir, whatever a later command gives
        teacher = restore(workdir / student.teacher, len(data.class_names))
    elif gives_network(config) and student.teacher == TEACHER:
        teacher = restore_given_teacher(config, data)
    elif config.teacher.outputs and student.teacher == TEACHER:
        raise UserError(f"config.teacher.outputs={config.teacher.outputs} has no network")
    else:
        teacher = restore(workdir / student.teacher, len(data.class_names))
    if not learned_from(student, teacher, workdir):
        raise UserError(
            f"the teacher that {student.name} learned from is neither in the workdir nor given by "
            "its last command"
        )
    return teacher


def _read_cache(path: Path) -> dict[str, float]:
    """Returns the stored temperatures by digest of the network's variables, else none."""
    try:
        return {str(digest): float(value) for digest, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # missing or damaged


def _digest(variables: dict) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


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
        print(f"{names}: not calibrated: {error}", file=sys.stderr)
        return {}, False
    if change := compare_test_images(data, dataset.fingerprint):
        warn(f"{names}: calibrated on other images ({change})")
    temperatures = {}
    for digest, network in networks:
        try:
            temperatures[digest] = _fit(network, dataset)
        except UserError as error:
            print(f"{network.name}: not calibrated: {error}", file=sys.stderr)
    return temperatures, not change


def _fit(network: TrainedModel, dataset: Dataset) -> float:
    fit, _ = split_half(len(dataset.test))
    print(
        f"{network.name}: fitting the temperature on {len(fit)} test images (once)",
        file=sys.stderr,
    )
    logits, labels = [], []
    for start in tqdm(range(0, len(fit), BATCH_SIZE), disable=None, leave=False):
        rows = fit[start : start + BATCH_SIZE]
        images, classes = dataset.test.read(np.resize(rows, BATCH_SIZE))  # repeated to a full batch
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
        predictor.module, variables, inputs, predicted, layer, predictor.bind(variables)
    )
