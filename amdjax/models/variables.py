"""Variables of models: initial values, number of parameters, shapes, a digest."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from amdjax import distributed
from amdjax.errors import UserError, first_names
from amdjax.models.layers import Model


def init_variables(model: Model, key: jax.Array, image_shape: tuple[int, ...]) -> dict:
    """Draws a model's initial variables.

    Args:
      model: from `create_model`.
      key: a JAX random key.
      image_shape: (H, W, 3).

    Returns:
      {"params": ..., "batch_stats": ...}, all float32; the latter is {} without batch norm.
    """
    return _initializer(model, tuple(image_shape))(key)


@functools.cache  # models of equal definition are equal, so that all seeds use one executable
def _initializer(model: Model, image_shape: tuple[int, ...]) -> Callable[[jax.Array], dict]:
    def init(key: jax.Array) -> dict:
        return _draw(model, image_shape, key)

    return distributed.jit(init)


def _draw(model: Model, image_shape: tuple[int, ...], key: jax.Array) -> dict:
    return {"batch_stats": {}, **model.init(key, jnp.zeros((1, *image_shape), jnp.float32))}


def abstract_variables(model: Model, image_shape: tuple[int, ...]) -> dict:
    """Returns the shapes and dtypes of what `init_variables` returns, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(functools.partial(_draw, model, image_shape), jax.random.key(0))


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Returns the number of values in `variables["params"]`."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def variable_shapes(
    model: Model, image_shape: tuple[int, ...] = (32, 32, 3)
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a model's variables, by path: "params/fc/kernel".

    Args:
      model: from `create_model`.
      image_shape: (H, W, 3), on which the shapes of a network may depend.
    """
    return flax.traverse_util.flatten_dict(abstract_variables(model, image_shape), sep="/")


def variables_digest(variables: Mapping[str, Any]) -> str:
    """Returns a digest of the values of a model's variables, in the order of their names."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def check_variable_shapes(
    arrays: Mapping[str, Any], expected: Mapping[str, Any], subject: str
) -> None:
    """Checks that arrays have the expected names and shapes.

    Args:
      arrays: name -> array.
      expected: name -> array or `jax.ShapeDtypeStruct`.
      subject: beginning of the error message: "FILE does not match MODEL".

    Raises:
      UserError: on the first array that is missing or has another shape, or on unexpected ones.
    """
    for name, leaf in expected.items():
        if name not in arrays:
            raise UserError(f"{subject}: {name!r} is missing")
        if arrays[name].shape != leaf.shape:
            raise UserError(
                f"{subject}: {name!r} has the shape {arrays[name].shape}, expected {leaf.shape}"
            )
    if extra := sorted(arrays.keys() - expected.keys()):
        raise UserError(f"{subject}: unexpected {first_names([repr(name) for name in extra])}")
