"""Optimisers and learning-rate schedules."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from amdjax.errors import UserError, unknown_name
from amdjax.schedules import epoch_of, ramp_down, ramp_up

OPTIMIZERS = ("sgd", "adam")


def learning_rate_schedule(
    optim: ml_collections.ConfigDict, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    `learning_rate * factor^(boundaries passed) * ramp_up * ramp_down`, constant within an epoch;
    a ramp of length 0 has no effect.

    Args:
      optim: `config.optim`.
      steps_per_epoch: batches in an epoch.
      epochs: length of the run.

    Returns:
      step -> float32 learning rate.

    Raises:
      UserError: if the boundaries do not ascend.
    """
    boundaries = tuple(optim.boundaries)
    if list(boundaries) != sorted(set(boundaries)):
        raise UserError(f"config.optim.boundaries must ascend, not {boundaries}")

    def schedule(step: jax.Array) -> jax.Array:
        epoch = epoch_of(step, steps_per_epoch)
        passed = jnp.sum(epoch >= jnp.asarray(boundaries, jnp.float32))
        rate = optim.learning_rate * jnp.power(jnp.float32(optim.factor), passed)
        rate *= ramp_up(epoch, optim.ramp_up_epochs)
        return rate * ramp_down(epoch, optim.ramp_down_epochs, epochs)

    return schedule


def create_optimizer(
    optim: ml_collections.ConfigDict, steps_per_epoch: int, epochs: int
) -> optax.GradientTransformation:
    """Creates the optimiser of a run.

    Weight decay is PyTorch's: `weight_decay * parameter` is added to the gradient before momentum
    (or Adam's moments), for all parameters or, with `decay_norms_and_biases=False`, for kernels
    alone. Adam's beta1 falls from `beta1` to `beta1_end` along the ramp-down (AMC recipe).

    Args:
      optim: `config.optim`.
      steps_per_epoch: batches in an epoch.
      epochs: length of the run.

    Returns:
      An optax transformation.

    Raises:
      UserError: if the optimiser's name is unknown.
    """
    schedule = learning_rate_schedule(optim, steps_per_epoch, epochs)
    if optim.name == "sgd":
        moments = optax.trace(decay=optim.momentum)
    elif optim.name == "adam":

        def beta1(step: jax.Array) -> jax.Array:
            epoch = epoch_of(step, steps_per_epoch)
            down = ramp_down(epoch, optim.ramp_down_epochs, epochs)
            return down * optim.beta1 + (1.0 - down) * optim.beta1_end

        moments = optax.inject_hyperparams(optax.scale_by_adam)(b1=beta1, b2=optim.beta2)
    else:
        raise unknown_name("optimiser", optim.name, OPTIMIZERS)
    mask = None if optim.decay_norms_and_biases else _kernels
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=mask),
        moments,
        optax.scale_by_learning_rate(schedule),
    )


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda parameter: parameter.ndim > 1, params)
