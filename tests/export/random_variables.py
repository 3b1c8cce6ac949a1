"""Random variables of a network, running statistics among them."""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from amdjax.models import Model


def draw_variables(model: Model, size: int) -> dict:
    """Draws the variables of a network for images of a size; kernels keep the variance."""
    rng = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def draw(path: tuple[str, ...], leaf: Any) -> np.ndarray:
        if path[-1] == "kernel":
            array = rng.normal(0.0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif path[-1] in ("var", "scale"):
            array = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            array = rng.normal(0.0, 0.3, leaf.shape)
        return array.astype(np.float32)

    return flax.traverse_util.path_aware_map(draw, shapes)
