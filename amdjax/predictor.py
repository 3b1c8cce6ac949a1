"""Prediction with a network: preprocessing, forward pass and the prediction rule of its losses."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from amdjax import distributed
from amdjax.data.augment import normalize
from amdjax.losses import LOSSES, Objective
from amdjax.losses.objective import build_prediction_rule, is_computed
from amdjax.models import Model, Outputs, count_parameters

# Names of running statistics in the "state" of losses, as in `models.layers.BatchNorm`.
_STATISTICS = ("mean", "var")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network with its preprocessing and prediction rule: all but its variables.

    Predictors of equal definition are equal and hash alike, so that a function with a static
    argument of this type is compiled once for all of them.

    Attributes:
      network: without its variables.
      rule: the objective of the `predicting_losses` alone, whose `predict` is the prediction rule.
      mean: of each channel of the images, on the scale 0 to 1.
      std: of each channel of the images, on the scale 0 to 1.
    """

    network: Model
    rule: Objective
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
        outputs: Any = self.network.apply(variables, self.normalize(images), train=False)
        return self.bind(variables)(outputs)

    def bind(self, variables: dict) -> Callable[[Outputs], Outputs]:
        """Returns `Objective.predict` with the variables of losses, if there are any.

        Args:
          variables: of the network, with `Objective.predicting_variables` as "losses" where a loss
            with variables defines the prediction.
        """
        if "losses" not in variables:
            return self.rule.predict
        return functools.partial(self.rule.predict, variables=variables["losses"])


def create_predictor(
    network: Model,
    augment: ml_collections.ConfigDict,
    losses: Mapping[str, Mapping[str, Any]],
) -> Predictor:
    """Returns the predictor of a network that is trained with some losses.

    Args:
      network: that is trained.
      augment: `config.augment`, of which mean and standard deviation are read.
      losses: name -> settings; the `predicting_losses` count.
    """
    return Predictor(
        network,
        build_prediction_rule({name: losses[name] for name in predicting_losses(losses)}),
        tuple(map(float, augment.mean)),
        tuple(map(float, augment.std)),
    )


def predicting_losses(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the names of the losses that replace the softmax of the logits.

    Args:
      losses: name -> settings. Those that are not computed or not registered do not count.
    """
    return [
        name
        for name, settings in losses.items()
        if name in LOSSES and LOSSES[name].logits_fn and is_computed(name, settings)
    ]


def trained_predicting_losses(losses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns those `predicting_losses` that have variables, which a prediction then needs."""
    return [name for name in predicting_losses(losses) if LOSSES[name].has_variables]


def count_prediction_parameters(variables: Mapping[str, Any]) -> int:
    """Returns the number of parameters that predict: the network's and those of its losses.

    Counts a frozen classifier that a loss keeps, and all parameters of the network, also a
    classifier whose logits a loss replaces; does not count running statistics.

    Args:
      variables: as for `Predictor.bind`.
    """
    losses = variables.get("losses", {})
    state = jax.tree.leaves_with_path(losses.get("state", {}))
    return (
        count_parameters(variables)
        + sum(leaf.size for leaf in jax.tree.leaves(losses.get("params", {})))
        + sum(leaf.size for path, leaf in state if _last(path) not in _STATISTICS)
    )


def _last(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


@functools.partial(distributed.jit, static_argnames="predictor")
def forward(predictor: Predictor, variables: dict, images: jax.Array) -> jax.Array:
    """Returns the logits [B,C] of the predicted probabilities of images, uint8 [B,H,W,3]."""
    return predictor(variables, images).logits
