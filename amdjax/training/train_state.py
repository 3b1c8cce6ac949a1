"""All that training changes, in one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from amdjax.losses.objective import Variables


@flax.struct.dataclass
class TrainState:
    """The state of a phase between two steps; together with the config it fixes all that follows.

    Attributes:
      step: int32 scalar, the number of steps done; the position in the data and the random numbers
        are functions of it.
      params: the student's (or the trained teacher's) parameters.
      batch_stats: its running statistics.
      objective: the variables of losses that have some; "params" are trained with the network's,
        "state" moves by itself.
      opt_state: optax's, for `trainable`.
      averaged: exponential means of params and batch_stats over the steps; {} where there are none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    objective: Variables
    opt_state: optax.OptState
    averaged: dict

    @classmethod
    def create(
        cls,
        variables: dict,
        objective: Variables,
        optimizer: optax.GradientTransformation,
        average: bool = False,
    ) -> "TrainState":
        """Returns the state before the first step, with means if it is to `average`."""
        trainable = {"model": variables["params"], "objective": objective["params"]}
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            objective=objective,
            opt_state=optimizer.init(trainable),
            # A copy: the state is donated to the step, and may not hold an array twice.
            averaged=jax.tree.map(jnp.copy, variables) if average else {},
        )

    @property
    def trainable(self) -> dict[str, Any]:
        """What the optimiser moves."""
        return {"model": self.params, "objective": self.objective["params"]}

    @property
    def variables(self) -> dict:
        """The network's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def result(self) -> dict:
        """The variables to evaluate and to teach with: the means where there are any."""
        return self.averaged or self.variables
