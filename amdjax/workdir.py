"""The trained networks of a workdir, read back for evaluation."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections

from amdjax import distributed
from amdjax.checkpoint import FOLDER, read_network
from amdjax.config import (
    EARLY_TEACHER,
    RUN_FILE,
    SWEPT,
    TEACHER,
    TEACHERS,
    compute_dtype,
    plan_runs,
    total_steps,
)
from amdjax.data.augment import normalize
from amdjax.errors import UserError
from amdjax.losses import LOSSES, build_objective
from amdjax.models import Outputs, create_model
from amdjax.pretrained import check_variables, load_teacher


@dataclasses.dataclass(frozen=True)
class Predictor:
    """What networks of one architecture have in common: all but their variables.

    Networks of equal kind are equal and hash alike, so that a function with a static argument of
    this type is compiled once for all of them.

    Attributes:
      module: the network.
      predict: outputs -> outputs whose logits' softmax are the predicted probabilities.
      mean: of each channel of the images, on the scale 0 to 1.
      std: likewise.
    """

    module: nn.Module
    predict: Callable[[Outputs], Outputs]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: jax.Array) -> jax.Array:
        """Turns images, uint8 [B,H,W,3], into the network's input, float32."""
        return normalize(images, self.mean, self.std)

    def __call__(self, variables: dict, images: jax.Array) -> Outputs:
        """Returns what a network says of images, uint8 [B,H,W,3], as evaluation does it."""
        return self.predict(self.module.apply(variables, self.normalize(images), train=False))


@functools.partial(distributed.jit, static_argnames="kind")
def forward(kind: Predictor, variables: dict, images: jax.Array) -> jax.Array:
    """Returns the logits [B,C] of the predicted probabilities of images, uint8 [B,H,W,3]."""
    return kind(variables, images).logits


class TrainingLength(NamedTuple):
    """What says how many steps a training has, see `total_steps`."""

    epochs: int
    share: float
    batch_size: int


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained network.

    Attributes:
      name: the phase's folder in the workdir; "teacher" for one that was trained elsewhere.
      method: the students' method, with the swept value behind it; a teacher's name.
      seed: of its training.
      model: name of the architecture.
      teacher: name of the teacher that it is compared with, which need not have taught it.
      kind: what it shares with other networks.
      variables: {"params": ..., "batch_stats": ...} of float32 arrays.
      step: the training step that they are of; 0 for a teacher that was trained elsewhere.
      length: of its training; None for a teacher that was trained elsewhere.
      swept: the setting of a loss, "losses.am.margin", of which `method` has a value; else "".
    """

    name: str
    method: str
    seed: int
    model: str
    teacher: str
    kind: Predictor
    variables: dict
    step: int
    length: TrainingLength | None
    swept: str = ""

    @property
    def is_teacher(self) -> bool:
        """Whether it taught the others."""
        return self.method in TEACHERS


def has_checkpoint(folder: Path) -> bool:
    """Returns whether a phase's folder has something to restore."""
    return (folder / RUN_FILE).exists() and any((folder / FOLDER).glob("[0-9]*"))


def restore(folder: Path, num_classes: int) -> TrainedModel:
    """Reads the newest checkpoint of a phase.

    Args:
      folder: the phase's, with `recipe.json` and `checkpoints/`.
      num_classes: of the data set.

    Returns:
      The network as the run evaluates it: in its dtype, with its means over the steps where there
      are any, and with the predictions of its loss.

    Raises:
      UserError: if the phase was not begun, or what it left is damaged or of other classes.
    """
    path = folder / RUN_FILE
    if not has_checkpoint(folder):
        raise UserError(f"{folder} has no checkpoint yet; repeat the run's command to train it")
    try:
        recipe = json.loads(path.read_text())
        seed, model, losses = recipe["seed"], recipe["model"], recipe["losses"]
        kind = _kind(model, num_classes, ml_collections.ConfigDict(recipe), losses)
        taught_early = "early_fraction" in recipe.get("teacher", {})
        length = TrainingLength(
            int(recipe["epochs"]), float(recipe["share"]), int(recipe["batch_size"])
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no text, JSON or recipe
        raise UserError(f"{path} is damaged ({error!r}); remove the folder {folder}") from error
    step, variables = read_network(folder)
    check_variables(variables, model, num_classes, folder)
    method = folder.name.removesuffix(f"-seed{seed}")  # see `RunSpec.name`
    teacher = EARLY_TEACHER if taught_early else TEACHER
    return TrainedModel(
        name=folder.name,
        method=method,
        seed=seed,
        model=model,
        teacher=teacher,
        kind=kind,
        variables=jax.device_put(variables),
        step=step,
        length=length,
        swept=recipe.get(SWEPT, ""),
    )


def restore_imported_teacher(config: ml_collections.ConfigDict, num_classes: int) -> TrainedModel:
    """Reads the teacher of `config.teacher.checkpoint`.

    Args:
      config: the run's.
      num_classes: of the data set.

    Raises:
      UserError: see `load_teacher`.
    """
    model = config.teacher.name
    variables = jax.device_put(load_teacher(config.teacher.checkpoint, model, num_classes))
    kind = _kind(model, num_classes, config, {})
    return TrainedModel(TEACHER, TEACHER, config.seed, model, TEACHER, kind, variables, 0, None)


def restore_all(
    workdir: Path, config: ml_collections.ConfigDict, num_classes: int, num_train: int
) -> tuple[list[TrainedModel], list[str]]:
    """Reads every network of a workdir.

    Args:
      workdir: of a run.
      config: of that run.
      num_classes: of the data set.
      num_train: examples that it trains with.

    Returns:
      (networks, missing): the teachers first, then the students in the order of the config, then
      what other runs left there; and a sentence for each network that is not there, cannot be
      read or is not finished.
    """
    networks, missing = [], []

    def attempt(read: Callable[[], TrainedModel], name: str) -> None:
        try:
            network = read()
        except UserError as error:
            missing.append(f"{name}: {error}")
            return
        same = (network.method, network.seed)
        twin = next((one.name for one in networks if (one.method, one.seed) == same), None)
        if twin is None:
            networks.append(network)
        else:
            missing.append(f"{name}: left out, for {twin} has the same method and seed")

    if config.teacher.checkpoint:
        attempt(lambda: restore_imported_teacher(config, num_classes), TEACHER)
    for name in phase_names(workdir, config):
        attempt(lambda name=name: restore(workdir / name, num_classes), name)
    missing += [
        f"{network.name}: trained for {network.step} of {total} steps so far"
        for network in networks
        if network.length and network.step < (total := _total_steps(network, config, num_train))
    ]
    return networks, missing


def phase_names(workdir: Path, config: ml_collections.ConfigDict) -> list[str]:
    """Returns the names of the phases that a config plans and of those that are in the workdir.

    The teachers are first; then come the config's students in its order, then others by name.
    """
    planned = [phase.name for phase in plan_runs(config)]
    found = {path.parent.name for path in workdir.glob(f"*/{RUN_FILE}")}
    if config.teacher.checkpoint:  # what an earlier run trained is not this run's teacher
        found.discard(TEACHER)
    names = [*planned, *sorted(found.difference(planned))]
    return sorted(names, key=lambda name: (*TEACHERS, name).index(name))


def _total_steps(network: TrainedModel, config: ml_collections.ConfigDict, num_train: int) -> int:
    epochs, share, batch_size = network.length
    return total_steps(epochs, share, config.max_steps, num_train // batch_size)


def _kind(
    model: str, num_classes: int, config: ml_collections.ConfigDict, losses: dict[str, Any]
) -> Predictor:
    own = {
        name: settings
        for name, settings in losses.items()
        if name in LOSSES and LOSSES[name].logits_fn is not None
    }
    return Predictor(
        create_model(model, num_classes, compute_dtype(config)),
        _prediction(json.dumps(own, sort_keys=True)),
        tuple(map(float, config.augment.mean)),
        tuple(map(float, config.augment.std)),
    )


@functools.cache
def _prediction(losses: str) -> Callable[[Outputs], Outputs]:
    """Returns how a network trained with these losses predicts; the same function each time."""
    return build_objective({"ce": {}, **json.loads(losses)}).predict
