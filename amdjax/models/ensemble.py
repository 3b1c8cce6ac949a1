"""An ensemble of networks, as one teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from amdjax.models.layers import FeatureHook, Model, Outputs


class Ensemble(Model):
    """The weighted mean of the logits of several networks, `sum_k weight_k logits_k`.

    It has neither features nor an embedding: those of its members have different sizes.

    Attributes:
      members: the networks, of the same classes.
      weights: of the members' logits.
    """

    members: tuple[Model, ...]
    weights: tuple[float, ...]

    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the mean logits for images, see `Model.__call__`; `feature_hook` has no use."""
        logits = [member(x, train=train).logits for member in self.members]
        mean: Any = sum(weight * one for weight, one in zip(self.weights, logits, strict=True))
        embedding: Any = None
        return Outputs(logits=mean, features={}, embedding=embedding)


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
