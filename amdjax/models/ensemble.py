"""An ensemble of networks, as one teacher."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.models.layers import FeatureHook, Model, Outputs


class Ensemble(Model):
    """Several networks as one: weighted means of their logits, joined features and embeddings.

    The logits are `sum_k w_k logits_k`. Features and embeddings are joined along the channels,
    `[sqrt(w_1) x_1, sqrt(w_2) x_2, ...]`, so that attention maps, and the inner products and
    squared distances of examples, are the weighted sums of the members'. The ensemble has the
    features that all members have with the same height and width.

    Attributes:
      members: the networks, of the same classes.
      weights: of the members' outputs.
    """

    members: tuple[Model, ...]
    weights: tuple[float, ...]

    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the joined outputs for images, see `Model.__call__`.

        Raises:
          UserError: if there is a `feature_hook`: no layer receives a joined feature.
        """
        if feature_hook is not None:
            raise UserError(
                "an ensemble has no Grad-CAM: no layer receives the joined features of its "
                "networks; choose one of the networks"
            )
        outputs = [member(x, train=train) for member in self.members]
        logits: Any = sum(
            weight * member.logits for weight, member in zip(self.weights, outputs, strict=True)
        )
        layers = [name for name in outputs[0].features if len(set(map_sizes(outputs, name))) == 1]
        return Outputs(
            logits=logits,
            features={
                name: self._join([member.features[name] for member in outputs]) for name in layers
            },
            embedding=self._join([member.embedding for member in outputs]),
        )

    def _join(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """Joins arrays [...,C_k] along the last axis, scaled by the roots of the weights."""
        scaled = [math.sqrt(weight) * x for weight, x in zip(self.weights, arrays, strict=True)]
        return jnp.concatenate(scaled, axis=-1)


def map_sizes(members: Sequence[Outputs], layer: str) -> tuple[tuple[int, ...] | None, ...]:
    """Returns height and width of a layer's feature in each member's outputs; None: not there."""
    features = (outputs.features.get(layer) for outputs in members)
    return tuple(None if feature is None else feature.shape[1:3] for feature in features)


def join_variables(members: Sequence[Mapping[str, Any]]) -> dict:
    """Returns the variables of an ensemble, from those of its members."""
    return {
        collection: {
            f"members_{index}": member.get(collection, {}) for index, member in enumerate(members)
        }
        for collection in ("params", "batch_stats")
    }


def member_variables(variables: Mapping[str, Any], index: int) -> dict:
    """Returns the variables of a member of an ensemble, the inverse of `join_variables`."""
    return {collection: trees[f"members_{index}"] for collection, trees in variables.items()}
