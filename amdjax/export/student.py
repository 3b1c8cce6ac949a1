"""The network that is exported, as a function of images, and its metadata."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from amdjax import __version__
from amdjax.calibrated import CalibratedModel, calibrate
from amdjax.errors import UserError
from amdjax.losses import LOSSES
from amdjax.models import create_model
from amdjax.predictor import Predictor, create_predictor, predicting_losses
from amdjax.trained import TrainedModel, restore_student
from amdjax.training.results_file import read_evaluations
from amdjax.workdir import UNMOVED, DataPaths, read_config, run_data

Metadata = dict[str, Any]
INPUT, OUTPUT = "images", "probabilities"


def read_student(
    workdir: Path,
    method: str | None = None,
    calibrated: bool = False,
    paths: DataPaths = UNMOVED,
) -> tuple[CalibratedModel, Metadata]:
    """Reads a network from a workdir.

    Args:
      workdir: of an experiment.
      method: of the student, or its folder in the workdir; None: the last student of the config
        that has a checkpoint.
      calibrated: whether the probabilities are those of `amdjax.predict`, with its temperature;
        otherwise the temperature is 1.
      paths: where the data are now, if they were moved; a temperature that is not stored yet needs
        them.

    Returns:
      (model, metadata). The model computes in float32, whatever dtype it was trained in. The
      metadata are JSON values.

    Raises:
      UserError: if the network cannot be read or calibrated.
    """
    config = read_config(workdir)
    network = restore_student(workdir, config, method)
    data = network.data
    assert data is not None, "`restore` returns networks with their data"
    model = CalibratedModel(network)
    if calibrated:
        (model,) = calibrate(
            [network], workdir, run_data(config.data, network.settings, paths), data
        )
        if model.temperature is None:
            raise UserError(f"--calibrated: the temperature of {network.name} cannot be fitted")
    float32 = network.predictor.network.clone(dtype=jnp.float32)
    predictor = dataclasses.replace(network.predictor, network=float32)
    model = dataclasses.replace(model, network=dataclasses.replace(network, predictor=predictor))
    metadata = {
        "amdjax_version": __version__,
        "model": network.model,
        "method": network.label,
        "seed": network.seed,
        "step": network.step,
        "class_names": list(data.class_names),
        "image_shape": list(data.image_shape),
        "input": f"{INPUT}: uint8 RGB [batch, height, width, 3]",
        "output": f"{OUTPUT}: float32 [batch, classes]",
        "crop": "224/256 of the centre square" if network.imagenet_crop else "centre square",
        "mean": list(predictor.mean),
        "std": list(predictor.std),
        "temperature": model.temperature or 1.0,
        "prediction_rule": predicting_losses(network.settings["losses"]),
        "imports": list(network.imports),
        "data": data.to_dict(),
        "results": _results(workdir, network),
        "settings": network.settings,
    }
    return model, metadata


def _results(workdir: Path, network: TrainedModel) -> Metadata:
    """Returns the results of a network in `results.json`.

    That file is written when all runs of a command are finished. A run that was resumed after that
    and then stopped has a newer checkpoint, of which the file has no results.

    Returns:
      Its "final" and its "best" evaluation, with the "selection_split" of the best, and under
      "seeds" those of every seed of its method; {} if there are none of this checkpoint.
    """
    seeds = read_evaluations(workdir, network.label)
    result = seeds.get(network.seed)
    if result is None or result["final"]["step"] != network.step:
        return {}
    return {**result, "seeds": {str(seed): values for seed, values in seeds.items()}}


def as_function(model: CalibratedModel) -> Callable[[jax.Array], jax.Array]:
    """Returns `CalibratedModel.probabilities` as a function that JAX can trace."""
    predictor, variables = model.network.predictor, model.network.variables
    temperature = model.temperature or 1.0

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(predictor(variables, images).logits / temperature)

    return probabilities


def predictor_of(metadata: Metadata) -> Predictor:
    """Returns the predictor that metadata describe.

    Raises:
      UserError: if its network or the loss that defines its prediction is not registered. The
        modules of the run are named, but not imported: an export may come from anywhere.
    """
    settings: Mapping[str, Any] = metadata["settings"]
    for name in metadata["prediction_rule"]:
        if name not in LOSSES:
            raise _unregistered("loss", name, metadata)
    try:
        network = create_model(metadata["model"], len(metadata["class_names"]))
    except UserError as error:
        raise _unregistered("network", metadata["model"], metadata) from error
    return create_predictor(
        network, ml_collections.ConfigDict(settings["augment"]), settings["losses"]
    )


def _unregistered(kind: str, name: str, metadata: Metadata) -> UserError:
    modules = ", ".join(metadata.get("imports", ())) or "the module that registers it"
    return UserError(
        f"the export needs the {kind} {name!r}, which is not registered: import {modules} first"
    )
