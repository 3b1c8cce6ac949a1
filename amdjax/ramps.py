"""Ramps of the learning rate and of loss weights, as functions of the epoch."""

import jax
import jax.numpy as jnp


def epoch_of(step: jax.Array, steps_per_epoch: int) -> jax.Array:
    """Returns the number of whole epochs done at a step, float32.

    The division is one of integers: in a compiled program XLA multiplies floats by the rounded
    reciprocal instead, which begins some epochs one step late.
    """
    return (jnp.asarray(step, jnp.int32) // steps_per_epoch).astype(jnp.float32)


def gaussian_ramp_up(epoch: jax.Array, length: float) -> jax.Array:
    """Returns `exp(-5 (1 - epoch / length)^2)` below `length` epochs and 1 from there on."""
    if length <= 0:
        return jnp.ones_like(epoch)
    return jnp.exp(-5.0 * jnp.square(1.0 - jnp.clip(epoch / length, 0.0, 1.0)))


def linear_ramp_up(done: jax.Array, length: float) -> jax.Array:
    """Returns `min((done + 1) / length, 1)` of the epochs, or steps, that are done.

    They count from 1, as in the published warm-ups of DKD and RLD.
    """
    return jnp.minimum((done + 1.0) / length, 1.0)


def gaussian_ramp_down(epoch: jax.Array, length: float, epochs: float) -> jax.Array:
    """Returns `exp(-(x / 2)^2 / length)`, x the epochs into the last `length` of `epochs`."""
    if length <= 0:
        return jnp.ones_like(epoch)
    return jnp.exp(-jnp.square(0.5 * jnp.maximum(epoch - (epochs - length), 0.0)) / length)
