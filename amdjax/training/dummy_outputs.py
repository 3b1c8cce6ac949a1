"""Outputs for two images of zeros, and their shapes, with which losses are initialised."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from amdjax.losses import LossInputs
from amdjax.models import Model, Outputs
from amdjax.teacher_outputs.stored import StoredOutputs


class NotOutputs(TypeError):
    """A network returned an object that is not `Outputs` with a mapping of features.

    Attributes:
      returned: that object.
    """

    def __init__(self, returned: Any):
        """Takes what the network returned."""
        super().__init__(f"a network returned an invalid {type(returned).__name__}")
        self.returned = returned


def dummy_outputs(model: Model | StoredOutputs, image_shape: tuple[int, ...]) -> Outputs:
    """Returns outputs for two images of zeros: of a network with new variables, or as in a file."""
    if isinstance(model, StoredOutputs):
        return model.dummy_outputs()
    images = jnp.zeros((2, *image_shape))
    return model.init_with_output(jax.random.key(0), images, train=False)[0]


def output_shapes(model: Model | StoredOutputs, image_shape: tuple[int, ...]) -> Outputs:
    """Returns `dummy_outputs` with a `jax.ShapeDtypeStruct` in place of each array.

    Nothing is computed. Networks of equal attributes are traced once for each shape of images.

    Args:
      model: a network, whose attributes are hashable, or a file of outputs.
      image_shape: (H, W, 3).

    Raises:
      NotOutputs: if the network returns something else.
    """
    trace = _trace if isinstance(model, StoredOutputs) else _trace_once
    return trace(model, tuple(image_shape))


def _trace(model: Model | StoredOutputs, image_shape: tuple[int, ...]) -> Outputs:
    shapes: list[Outputs] = []

    def compute() -> None:  # returns nothing: as a result of a trace, features would be sorted
        outputs = dummy_outputs(model, image_shape)
        if not isinstance(outputs, Outputs) or not isinstance(outputs.features, Mapping):
            raise NotOutputs(outputs)
        shapes.append(_map_arrays(_shape, outputs))

    jax.eval_shape(compute)
    return shapes[0]


_trace_once = functools.cache(_trace)


def dummy_inputs(student: Outputs, teacher: Outputs | None, num_examples: int = 2) -> LossInputs:
    """Returns the inputs of the losses for two images; for `Objective.init`.

    Args:
      student: the student's outputs for two images, or their shapes, which stand for zeros.
      teacher: the teacher's, likewise; None where there is none.
      num_examples: number of images in the training split, on which shapes of variables may depend.
    """
    ours = _map_arrays(_fill, student)
    theirs = None if teacher is None else _map_arrays(_fill, teacher)
    return LossInputs(
        ours,
        theirs,
        labels=jnp.zeros(2, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        gather=lambda x: x,
        example_index=jnp.arange(2, dtype=jnp.int32),
        num_examples=num_examples,
        key=jax.random.key(0),
        strong_student=ours,
        strong_teacher=theirs,
    )


def _map_arrays(function: Callable[[Any], Any], outputs: Outputs) -> Outputs:
    """Applies a function to each array; unlike in `jax.tree.map`, features keep their order."""
    features = {name: jax.tree.map(function, x) for name, x in outputs.features.items()}
    return jax.tree.map(function, outputs.replace(features={})).replace(features=features)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))


def _fill(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
