"""Optimisers and learning-rate schedules."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import optax

from amdjax.errors import UserError, unknown_name
from amdjax.ramps import epoch_of, gaussian_ramp_down, gaussian_ramp_up, linear_ramp_up
from amdjax.registry import registering

SCHEDULES = ("step", "cosine", "linear")


class OptimizerInputs(NamedTuple):
    """Parts that an optimiser is built from.

    Attributes:
      optim: `config.optim`.
      learning_rate: step -> learning rate.
      beta1: step -> decay of the first moment, for those that have one.
      decayed: parameters -> a tree of bool, whether weight decay concerns them; None: all.
    """

    optim: ml_collections.ConfigDict
    learning_rate: optax.Schedule
    beta1: optax.Schedule
    decayed: Callable[[Any], Any] | None


_Build = TypeVar("_Build", bound=Callable[[OptimizerInputs], optax.GradientTransformation])


class OptimizerSpec(NamedTuple):
    """An entry of the registry.

    Attributes:
      build: creates the optimiser, learning rate and weight decay included.
      summary: one line for `--list`.
    """

    build: Callable[[OptimizerInputs], optax.GradientTransformation]
    summary: str


OPTIMIZERS: dict[str, OptimizerSpec] = {}


def register_optimizer(name: str, summary: str) -> Callable[[_Build], _Build]:
    """Returns a decorator that registers an optimiser.

    What is decorated is a function of `OptimizerInputs` that returns an optax transformation,
    learning rate and weight decay included.

    Args:
      name: of the optimiser, for `config.optim.name`.
      summary: description in one line, for `--list`.

    Raises:
      UserError: if the name is taken.
    """
    return registering(OPTIMIZERS, "optimiser", name, lambda build: OptimizerSpec(build, summary))


@register_optimizer("sgd", "stochastic gradient descent with momentum")
def _sgd(inputs: OptimizerInputs) -> optax.GradientTransformation:
    optim = inputs.optim
    if optim.nesterov and not optim.momentum:
        raise UserError("config.optim.nesterov needs config.optim.momentum above 0")
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=inputs.decayed),
        optax.trace(decay=optim.momentum, nesterov=optim.nesterov),
        optax.scale_by_learning_rate(inputs.learning_rate),
    )


@register_optimizer("adam", "Adam, with the weight decay in the gradient, as in PyTorch")
def _adam(inputs: OptimizerInputs) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(inputs.optim.weight_decay, mask=inputs.decayed),
        _scale_by_adam(inputs),
        optax.scale_by_learning_rate(inputs.learning_rate),
    )


@register_optimizer("adamw", "Adam with decoupled weight decay")
def _adamw(inputs: OptimizerInputs) -> optax.GradientTransformation:
    return optax.chain(
        _scale_by_adam(inputs),
        optax.add_decayed_weights(inputs.optim.weight_decay, mask=inputs.decayed),
        optax.scale_by_learning_rate(inputs.learning_rate),
    )


def _scale_by_adam(inputs: OptimizerInputs) -> optax.GradientTransformation:
    optim = inputs.optim
    if optim.nesterov:
        raise UserError(f"config.optim.nesterov is a setting of sgd, not of {optim.name}")
    return optax.inject_hyperparams(optax.scale_by_adam)(b1=inputs.beta1, b2=optim.beta2)


def learning_rate_schedule(
    optim: ml_collections.ConfigDict, steps_per_epoch: int, epochs: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    The product of a schedule and of the ramps `warm_up * ramp_up * ramp_down`. With t from 0 to 1,
    the fraction of the steps after the warm-up that are done, and `end = end_learning_rate`, the
    schedules are

      "step": `learning_rate * factor^(boundaries passed)`, constant within an epoch;
      "cosine": `end + (learning_rate - end) * (1 + cos(pi t)) / 2`;
      "linear": `end + (learning_rate - end) * (1 - t)`.

    The warm-up over W steps is `min((step + 1) / W, 1)`. The other ramps are constant within an
    epoch. A ramp of length 0 has no effect.

    Args:
      optim: `config.optim`.
      steps_per_epoch: batches in an epoch.
      epochs: length of the run.

    Returns:
      step -> float32 learning rate.

    Raises:
      UserError: on an unknown schedule, boundaries that do not ascend, or a warm-up as long as the
        run.
    """
    if optim.schedule not in SCHEDULES:
        raise unknown_name("config.optim.schedule", optim.schedule, SCHEDULES)
    boundaries = tuple(optim.boundaries)
    if list(boundaries) != sorted(set(boundaries)):
        raise UserError(f"config.optim.boundaries must ascend, not {boundaries}")
    if optim.warmup_epochs and optim.warmup_epochs >= epochs:
        raise UserError(
            f"config.optim.warmup_epochs={optim.warmup_epochs} must be below config.epochs={epochs}"
        )
    warmup_steps = optim.warmup_epochs * steps_per_epoch

    def base_rate(step: jax.Array) -> jax.Array:
        if optim.schedule == "step":
            epoch = epoch_of(step, steps_per_epoch)
            passed = jnp.sum(epoch >= jnp.asarray(boundaries, jnp.float32))
            return optim.learning_rate * jnp.power(jnp.float32(optim.factor), passed)
        steps = epochs * steps_per_epoch - warmup_steps
        done = jnp.clip((jnp.asarray(step, jnp.float32) - warmup_steps) / steps, 0.0, 1.0)
        left = (1.0 + jnp.cos(jnp.pi * done)) / 2 if optim.schedule == "cosine" else 1.0 - done
        return optim.end_learning_rate + (optim.learning_rate - optim.end_learning_rate) * left

    def schedule(step: jax.Array) -> jax.Array:
        epoch = epoch_of(step, steps_per_epoch)
        rate = base_rate(step)
        rate *= gaussian_ramp_up(epoch, optim.ramp_up_epochs)
        rate *= gaussian_ramp_down(epoch, optim.ramp_down_epochs, epochs)
        if warmup_steps:
            rate *= linear_ramp_up(jnp.asarray(step, jnp.float32), warmup_steps)
        return rate

    return schedule


def create_optimizer(
    optim: ml_collections.ConfigDict, steps_per_epoch: int, epochs: int
) -> optax.GradientTransformation:
    """Creates the optimiser of a run.

    A gradient whose L2 norm, of all parameters together, is above `clip_norm` is scaled down to it.
    Weight decay concerns all parameters or, with `decay_norms_and_biases=False`, kernels alone. In
    "sgd" and "adam" it is PyTorch's: `weight_decay * parameter` is added to the (clipped) gradient
    before momentum or Adam's moments; in "adamw" it is decoupled: `rate * weight_decay * parameter`
    is subtracted from the parameter. The beta1 of both falls from `beta1` to `beta1_end` along the
    ramp-down (AMC recipe).

    Args:
      optim: `config.optim`.
      steps_per_epoch: batches in an epoch.
      epochs: length of the run.

    Returns:
      An optax transformation.

    Raises:
      UserError: if the optimiser's name is unknown, or settings exclude each other.
    """
    if optim.name not in OPTIMIZERS:
        raise unknown_name("config.optim.name", optim.name, OPTIMIZERS)

    def beta1(step: jax.Array) -> jax.Array:
        epoch = epoch_of(step, steps_per_epoch)
        down = gaussian_ramp_down(epoch, optim.ramp_down_epochs, epochs)
        return down * optim.beta1 + (1.0 - down) * optim.beta1_end

    inputs = OptimizerInputs(
        optim,
        learning_rate=learning_rate_schedule(optim, steps_per_epoch, epochs),
        beta1=beta1,
        decayed=None if optim.decay_norms_and_biases else _kernels,
    )
    optimizer = OPTIMIZERS[optim.name].build(inputs)
    if not optim.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(optim.clip_norm), optimizer)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda parameter: parameter.ndim > 1, params)
