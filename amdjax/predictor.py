"""Prediction with a network: preprocessing, forward pass and the prediction rule of its losses."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from amdjax import distributed
from amdjax.data.augment import normalize
from amdjax.losses import LOSSES, build_objective
from amdjax.models import Model, Outputs, count_parameters

# Names of running statistics in the variables of losses, as in `models.layers.BatchNorm`.
_STATISTICS = ("mean", "var")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network's module with its preprocessing and prediction rule: all but its variables.

    Predictors of equal definition are equal and hash alike, so that a function with a static
    argument of this type is compiled once for all of them.

    Attributes:
      module: the network.
      predict: outputs -> outputs whose logits' softmax are the predicted probabilities; takes the
        variables of losses as a second argument where these predict, see `bind`.
      mean: of each channel of the images, on the scale 0 to 1.
      std: of each channel of the images, on the scale 0 to 1.
    """

    module: Model
    predict: Callable[..., Outputs]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: jax.Array) -> jax.Array:
        """Turns images, uint8 [B,H,W,3], into the network's input, float32."""
        return normalize(images, self.mean, self.std)

    def __call__(self, variables: dict, images: jax.Array) -> Outputs:
        """Returns the outputs for images, uint8 [B,H,W,3], in evaluation mode.

        Args:
          variables: {"params": ..., "batch_stats": ...} of the network, and "losses", see `bind`.
          images: uint8 [B,H,W,3].
        """
        outputs: Any = self.module.apply(variables, self.normalize(images), train=False)
        return self.bind(variables)(outputs)

    def bind(self, variables: dict) -> Callable[[Outputs], Outputs]:
        """Returns `predict` with the variables of losses, if there are any.

        Args:
          variables: of the network, with `Objective.predicting_variables` as "losses" where a loss
            with variables defines the prediction.
        """
        if "losses" not in variables:
            return self.predict
        return functools.partial(self.predict, variables=variables["losses"])


def create_predictor(
    module: Model,
    augment: ml_collections.ConfigDict,
    losses: Mapping[str, Mapping[str, Any]],
) -> Predictor:
    """Returns the predictor of a network that is trained with some losses.

    Args:
      module: the network.
      augment: `config.augment`, of which mean and standard deviation are read.
      losses: name -> settings; the `predicting_losses` count.
    """
    rules = {name: losses[name] for name in predicting_losses(losses)}
    return Predictor(
        module,
        _prediction_rule(json.dumps(rules, sort_keys=True)),
        tuple(map(float, augment.mean)),
        tuple(map(float, augment.std)),
    )


def predicting_losses(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the losses that replace the softmax of the logits.

    Args:
      losses: name -> settings. Those of weight 0 and those that are not registered do not count.
    """
    return [
        name
        for name, settings in losses.items()
        if name in LOSSES
        and LOSSES[name].logits_fn
        and settings.get("weight", LOSSES[name].defaults()["weight"]) != 0
    ]


def trained_predicting_losses(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns those `predicting_losses` that have variables, which a prediction then needs."""
    return [name for name in predicting_losses(losses) if LOSSES[name].has_variables]


def count_prediction_parameters(variables: Mapping[str, Any]) -> int:
    """Returns the number of parameters that predict: the network's and those of its losses.

    A classifier that a loss keeps without training it counts, and running statistics do not. All
    parameters of the network count, also a classifier whose logits a loss replaces.

    Args:
      variables: as for `Predictor.bind`.
    """
    losses = jax.tree.leaves_with_path(variables.get("losses", {}))
    return count_parameters(variables) + sum(
        leaf.size
        for path, leaf in losses
        if jax.tree_util.keystr(path[-1:], simple=True) not in _STATISTICS
    )


@functools.cache
def _prediction_rule(losses: str) -> Callable[[Outputs], Outputs]:
    """Returns `Objective.predict` for losses in JSON; the same function for the same losses."""
    return build_objective({"ce": {}, **json.loads(losses)}).predict


@functools.partial(distributed.jit, static_argnames="predictor")
def forward(predictor: Predictor, variables: dict, images: jax.Array) -> jax.Array:
    """Returns the logits [B,C] of the predicted probabilities of images, uint8 [B,H,W,3]."""
    return predictor(variables, images).logits
