"""Trained networks, read from the runs of a workdir."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from amdjax.checkpoint import read_network
from amdjax.checkpoint_files import has_checkpoint
from amdjax.config import compute_dtype, given_teacher_setting
from amdjax.data.fingerprint import Fingerprint, check_classes, compare_test_images
from amdjax.errors import UserError, unknown_name, warn
from amdjax.experiment import RunIdentity, plan_runs
from amdjax.imports import import_again
from amdjax.methods import TEACHER, TEACHERS, canonical_method_name
from amdjax.models import create_model
from amdjax.predictor import (
    Predictor,
    create_predictor,
    forward,
    trained_predicting_losses,
)
from amdjax.pretrained import create_teacher, load_given_teacher, teacher_name
from amdjax.run_description import (
    OLD_RUN_FILE,
    RUN_FILE,
    TrainingLength,
    old_workdir,
    read_label,
    read_run,
)
from amdjax.run_settings import teacher_settings
from amdjax.weight_sources import check_variables, count_classes, find_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel(RunIdentity):
    """A trained network.

    Attributes:
      name: the run's folder in the workdir; "teacher" for one that was trained elsewhere.
      model: name of the architecture.
      teacher: name of the teacher that it is compared with, also where it was trained without one.
      data: fingerprint of the data that it was trained on; None for a teacher that was trained
        elsewhere.
      predictor: network, preprocessing and prediction rule.
      variables: {"params": ..., "batch_stats": ...} of float32 arrays, and "losses" where the
        variables of a loss are part of the prediction, see `Predictor.bind`.
      step: the training step of the variables; 0 for a teacher that was trained elsewhere.
      length: of its training; None for a teacher that was trained elsewhere.
      settings: of its training, as JSON values; of a teacher that was trained elsewhere only
        "teacher", which the settings of students that learn from it have, too.
      imports: modules that its training imported.
      teacher_checkpoints: that it learned from, see `GivenTeacher`; () if it was trained
        without a teacher, or with one that was trained in the workdir. Of a teacher that was
        trained elsewhere: those that it was read from.
    """

    name: str
    model: str
    teacher: str
    data: Fingerprint | None
    predictor: Predictor = dataclasses.field(repr=False)
    variables: dict = dataclasses.field(repr=False)
    step: int
    length: TrainingLength | None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    imports: tuple[str, ...] = ()
    teacher_checkpoints: tuple[Mapping[str, Any], ...] = ()

    def planned_steps(self, max_steps: int) -> int:
        """Returns the steps of its training; 0 for a teacher that was trained elsewhere.

        Args:
          max_steps: `config.max_steps`.
        """
        if self.length is None or self.data is None:
            return 0
        return self.length.steps(self.data.num_images["train"], max_steps)

    @property
    def imagenet_crop(self) -> bool:
        """Whether the input is 224/256 of an image's centre square."""
        return self.settings.get("data", {}).get("random_resized_crop", False)

    def logits(self, images: np.ndarray) -> jax.Array:
        """Returns the logits, float32 [B,C], of images, uint8 RGB [B,H,W,3].

        Raises:
          UserError: if the images have another dtype, and so perhaps another scale, or another
            shape than those of its training.
        """
        if self.data is None:
            fits, shape = images.ndim == 4 and images.shape[3] == 3, "H,W,3"
        else:
            fits = images.shape[1:] == self.data.image_shape
            shape = ",".join(map(str, self.data.image_shape))
        if images.dtype != np.uint8 or not fits:
            raise UserError(
                f"images must be uint8 [B,{shape}] of values from 0 to 255, not {images.dtype} "
                f"{list(images.shape)}"
            )
        return forward(self.predictor, self.variables, images)


def load_run(folder: Path | str) -> TrainedModel:
    """Reads a trained network.

    Args:
      folder: of a run in a workdir, such as "runs/cifar10-a/amd_gl".

    Returns:
      The network of the newest checkpoint; `network.logits(images)` is its prediction.

    Raises:
      UserError: if there is no checkpoint, or the folder is a workdir, its files are damaged, or a
        module of its `config.imports` cannot be imported.
    """
    return restore(find_source(str(folder), "load_run"))


def restore(folder: Path, num_classes: int | None = None) -> TrainedModel:
    """Reads the newest checkpoint of a run.

    Args:
      folder: the run's, with `run.json` and `checkpoints/`.
      num_classes: that the network must have; None: any number.

    Returns:
      The network as the run evaluates it: in its dtype, with its moving averages where there are
      any, and with the prediction rule of its loss.

    Raises:
      UserError: if the run was not started, its files are damaged or of other classes, or a module
        of its `config.imports` cannot be imported.
    """
    if not has_checkpoint(folder):
        if (folder / OLD_RUN_FILE).exists():
            raise old_workdir(folder)
        raise UserError(f"{folder} has no checkpoint yet; repeat the run's command to train it")
    run = read_run(folder)
    import_again(run.imports, folder)
    step, variables = read_network(folder, trained_predicting_losses(run.losses))
    classes = num_classes or count_classes(variables) or len(run.data.class_names)
    model = create_model(run.model, classes, compute_dtype(run.config))
    predictor = create_predictor(model, run.config.augment, run.losses)
    network = {name: tree for name, tree in variables.items() if name != "losses"}
    check_variables(network, run.model, classes, folder, run.data.image_shape)
    return TrainedModel(
        name=folder.name,
        method=run.method,
        seed=run.seed,
        model=run.model,
        teacher=run.teacher or TEACHER,
        data=run.data,
        predictor=predictor,
        variables=jax.device_put(variables),
        step=step,
        length=run.length,
        sweep_key=run.sweep_key,
        sweep_value=run.sweep_value,
        settings=run.settings,
        imports=tuple(run.imports),
        teacher_checkpoints=run.teacher_checkpoints,
    )


def restore_student(
    workdir: Path, config: ml_collections.ConfigDict, method: str | None = None
) -> TrainedModel:
    """Reads a student of a workdir: the first seed of a method that has a checkpoint.

    A warning says if it is not the last student of the config, or if its training is not finished.

    Args:
      workdir: of an experiment.
      config: of that experiment.
      method: of the student, or its folder in the workdir, which may be a teacher's; None: the last
        student of the config that has a checkpoint.

    Raises:
      UserError: if there is no such method, or as `restore`.
    """
    network = restore(workdir / _find_student(workdir, config, method))
    if method is None and network.label != (last := _last_students(config)[0]):
        warn(f"{last} has no checkpoint yet; this is {network.name}")
    if network.step < (total := network.planned_steps(config.max_steps)):
        warn(f"{network.name} was trained for {network.step:,} of {total:,} steps so far")
    return network


def restore_given_teacher(config: ml_collections.ConfigDict, data: Fingerprint) -> TrainedModel:
    """Reads the teacher of `config.teacher.checkpoint` or `config.teacher.ensemble`.

    Args:
      config: of the experiment.
      data: fingerprint of the data set.

    Raises:
      UserError: see `load_given_teacher`.
    """
    teacher, num_classes = load_given_teacher(config.teacher, data), len(data.class_names)
    return TrainedModel(
        name=TEACHER,
        method=TEACHER,
        seed=config.seed,
        model=teacher_name(config.teacher),
        teacher=TEACHER,
        data=None,
        predictor=create_predictor(
            create_teacher(config.teacher, num_classes, compute_dtype(config)), config.augment, {}
        ),
        variables=jax.device_put(teacher.variables),
        step=0,
        length=None,
        settings={"teacher": teacher_settings(config)},
        teacher_checkpoints=teacher.checkpoints,
    )


def restore_all(
    workdir: Path, config: ml_collections.ConfigDict, data: Fingerprint
) -> tuple[list[TrainedModel], list[str]]:
    """Reads every network of a workdir.

    Args:
      workdir: of an experiment.
      config: of that experiment.
      data: fingerprint of the data set; networks of other classes are skipped.

    Returns:
      (networks, notes): the teachers first, then the students in the order of the config, then
      those of earlier commands; and a sentence for each network that is missing, cannot be read, is
      not finished or was evaluated on other images in training.
    """
    networks, notes = [], []

    def attempt(read: Callable[[], TrainedModel], name: str) -> None:
        try:
            network = read()
            if network.data is not None:
                check_classes(network.data, data, name)
        except UserError as error:
            notes.append(f"{name}: {error}")
            return
        same = (network.label, network.seed)
        twins = [other.name for other in networks if (other.label, other.seed) == same]
        if twins:
            notes.append(f"{name}: skipped: {twins[0]} has the same method and seed")
        else:
            networks.append(network)

    if config.teacher.checkpoint:
        attempt(lambda: restore_given_teacher(config, data), TEACHER)
    if config.teacher.ensemble:
        notes.append(f"{TEACHER}: skipped: the report shows single networks, not ensembles")
    for name in run_names(workdir, config):
        attempt(lambda name=name: restore(workdir / name), name)
    changed: dict[str, list[str]] = {}
    for network in networks:
        if network.data is not None and (change := compare_test_images(network.data, data)):
            changed.setdefault(change, []).append(network.name)
    notes += [
        f"{', '.join(names)}: evaluated on different test images from those of training ({change})"
        for change, names in changed.items()
    ]
    notes += [
        f"{network.name}: trained for {network.step} of {total} steps so far"
        for network in networks
        if network.step < (total := network.planned_steps(config.max_steps))
    ]
    cut: dict[str, list[str]] = {}
    for network in networks:
        if network.step == network.planned_steps(config.max_steps) < network.planned_steps(0):
            steps = f"{network.step:,} of {network.planned_steps(0):,} steps"
            cut.setdefault(steps, []).append(network.name)
    notes += [
        f"{', '.join(names)}: trained for {steps} (config.max_steps={config.max_steps})"
        for steps, names in cut.items()
    ]
    return networks, notes


def run_names(workdir: Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of the runs that a config plans and of those that are in the workdir.

    The teachers are first; then come the config's students in its order, then others by name.
    """
    planned = [spec.name for spec in plan_runs(config)]
    folders = list(workdir.iterdir())
    found = {path.name for path in folders if (path / RUN_FILE).exists() or has_checkpoint(path)}
    if given_teacher_setting(config):
        # A teacher of an earlier command is not the config's.
        found.discard(TEACHER)
    names = [*planned, *sorted(found.difference(planned))]
    return sorted(names, key=lambda name: (*TEACHERS, name).index(name))


def _last_students(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the labels of the students of a config, the last one first."""
    return [spec.label for spec in reversed(plan_runs(config)) if not spec.is_teacher]


def _find_student(workdir: Path, config: ml_collections.ConfigDict, method: str | None) -> str:
    """Returns the name of the folder that `restore_student` reads."""
    names = run_names(workdir, config)
    labels = {name: read_label(workdir / name) or name for name in names}
    if method is None:
        wanted = _last_students(config)
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
