"""Preflight checks: whole settings and shapes, before any data are prepared or networks trained."""

import json
from collections.abc import Sequence

import ml_collections

from amdjax import __version__, distributed
from amdjax.config import PATH_SETTINGS, flat_settings
from amdjax.data import DATASETS
from amdjax.data.augment import create_augment, create_strong_augment
from amdjax.data.mixing import create_mix
from amdjax.errors import UserError
from amdjax.experiment import RunSpec
from amdjax.losses import Objective, build_objective
from amdjax.models import create_model
from amdjax.predictor import trained_predicting_losses
from amdjax.pretrained import create_teacher
from amdjax.teacher_outputs.stored import check_images_unchanged, open_outputs
from amdjax.training.loss_checks import check_loss_shapes
from amdjax.training.network_checks import check_networks
from amdjax.training.optimizer import create_optimizer
from amdjax.training.trackers import check_trackers

_OF_PROCESS = ("data.data_dir", "trackers")  # settings that do not concern the other processes


def check_same_settings(config: ml_collections.ConfigDict) -> None:
    """Makes sure that all processes have the same settings, apart from paths, and the same version.

    With others they would wait for each other forever, or train with parts of both.

    Args:
      config: of the experiment.

    Raises:
      UserError: in all processes, naming those that differ from the first one.
    """
    settings = flat_settings(config)
    for name in PATH_SETTINGS:  # another process may have the same files under other names
        value = settings[name]
        settings[name] = bool(value) if isinstance(value, str) else len(value)
    compared = {name: settings[name] for name in settings if name not in _OF_PROCESS}
    text = json.dumps([__version__, compared], sort_keys=True, default=str)
    if differing := distributed.differing_processes(text):
        raise UserError(
            f"process {', '.join(map(str, differing))} has different settings, or a different "
            "version of amdjax, from process 0; start all with the same flags, in the same "
            f"environment. This one, process {distributed.process_index()}, has amdjax "
            f"{__version__}"
        )


def check_settings(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> None:
    """Checks all settings that need no data: optimiser, augmentation, trackers, networks.

    Args:
      config: of the experiment.
      specs: its runs.

    Raises:
      UserError: on an unknown name, a value out of range, or settings that exclude each other.
    """
    create_optimizer(config.optim, steps_per_epoch=1, epochs=config.epochs)
    create_augment(config.augment)
    create_mix(config.mix, distributed.reverse_batch)
    if config.data.folder and config.data.name in DATASETS and config.data.name != "folder":
        raise UserError(
            f"config.data.folder={config.data.folder} is not read with config.data.name="
            f"{config.data.name!r}; set that to 'folder', as the recipe folder.py does"
        )
    check_trackers(config.trackers)
    for spec in specs:
        _check_network(spec)
        try:
            objective = build_objective(spec.losses)
            if objective.needs_strong_view:
                create_strong_augment(config.augment)
            if config.ema_decay and (predicting := trained_predicting_losses(spec.losses)):
                raise UserError(
                    f"config.ema_decay={config.ema_decay} averages the network alone, but the "
                    f"trained layers of {' and '.join(predicting)} are part of the prediction; set "
                    "it to 0"
                )
            _check_pairs(config, objective)
            if spec.teacher is not None:
                _check_teacher(config, objective)
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def _check_network(spec: RunSpec) -> None:
    """Makes sure that the network of a run exists; an error names the setting."""
    try:
        create_model(spec.model, num_classes=2)
    except UserError as error:
        role = "teacher" if spec.is_teacher else "student"
        raise UserError(f"config.{role}.name: {error}") from error


def _check_pairs(config: ml_collections.ConfigDict, objective: Objective) -> None:
    """Makes sure that each part of a batch has two halves, where a loss compares them.

    Raises:
      UserError: if a part has an odd number of images.
    """
    losses = [term.name for term in objective.terms if term.spec.pairs_halves]
    if losses and config.batch_size // config.accumulate % 2:
        parts = f" / config.accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise UserError(
            f"{losses[0]} compares the two halves of a batch, but config.batch_size="
            f"{config.batch_size}{parts} is odd"
        )


def check_shapes(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes the outputs of every network and the losses of every run on shapes alone.

    Args:
      config: of the experiment.
      specs: its runs.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a network cannot be called or its outputs have wrong shapes, or a loss cannot
        be computed from them, see `check_loss_shapes`.
    """
    check_networks(config, specs, num_classes, image_shape)
    for spec in specs:
        try:
            check_loss_shapes(config, spec, num_classes, image_shape)
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def _check_teacher(config: ml_collections.ConfigDict, objective: Objective) -> None:
    """Makes sure that there is a teacher with all that the losses of a run need.

    Raises:
      UserError: if the network or the file of outputs does not exist; or if there is a file, but an
        image is changed by more than a flip, or a loss needs more of the teacher than the file has.
    """
    if config.teacher.outputs:
        check_images_unchanged(config, "config.teacher.outputs")
        open_outputs(config.teacher.outputs).check_inputs(objective, config.augment.flip)
    else:
        create_teacher(config.teacher, num_classes=2)
