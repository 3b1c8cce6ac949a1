"""Random arrays for the tests of losses."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(*shape: int, seed: int | np.random.Generator = 0) -> jax.Array:
    """Returns standard normal float32 values; a generator continues its sequence."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
