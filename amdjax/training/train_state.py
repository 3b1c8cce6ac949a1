"""The state of a training run, in one pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from amdjax.losses.objective import LossVariables


@flax.struct.dataclass
class TrainState:
    """The state of a run between two steps; with the config it determines the rest of the run.

    Attributes:
      step: int32 scalar, the number of steps done; the position in the data and the random numbers
        are functions of it.
      params: the parameters of the network that is trained.
      batch_stats: its running statistics.
      loss_variables: the variables of losses that have some; "params" are trained together with the
        network's, "state" is updated without gradients.
      opt_state: optax's, for `trainable`.
      ema: exponential moving averages of params and batch_stats; {} where the config has none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    loss_variables: LossVariables
    opt_state: optax.OptState
    ema: dict

    @classmethod
    def create(
        cls,
        variables: dict,
        loss_variables: LossVariables,
        optimizer: optax.GradientTransformation,
        ema: bool = False,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
          variables: {"params": ..., "batch_stats": ...} of the network.
          loss_variables: from `Objective.init`.
          optimizer: from `create_optimizer`.
          ema: whether to keep exponential moving averages.
        """
        trainable = {"model": variables["params"], "losses": loss_variables["params"]}
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            loss_variables=loss_variables,
            opt_state=optimizer.init(trainable),
            # A copy: the state is donated to the step, and may not hold an array twice.
            ema=jax.tree.map(jnp.copy, variables) if ema else {},
        )

    @property
    def trainable(self) -> dict[str, Any]:
        """The parameters that the optimiser updates: the network's and those of the losses."""
        return {"model": self.params, "losses": self.loss_variables["params"]}

    @property
    def variables(self) -> dict:
        """The network's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict:
        """The variables to evaluate and to teach with: the averages where there are any."""
        return self.ema or self.variables
