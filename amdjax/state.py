"""All that training changes, in one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """The state of a phase between two steps; together with the config it fixes all that follows.

    Attributes:
      step: int32 scalar, the number of steps done; the position in the data and the random numbers
        are functions of it.
      params: the student's (or the trained teacher's) parameters.
      batch_stats: its running statistics.
      opt_state: optax's.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @classmethod
    def create(cls, variables: dict, optimizer: optax.GradientTransformation) -> "TrainState":
        """Returns the state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(variables["params"]),
        )

    @property
    def variables(self) -> dict:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}
