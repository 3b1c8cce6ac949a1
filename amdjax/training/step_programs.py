"""Programs of many train steps: over examples on the device, and of several networks at once."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from amdjax.training.train_state import TrainState


@flax.struct.dataclass
class ExampleRows:
    """An array of examples as rows of numbers.

    A TPU would lay out arrays [N,H,W,C] with N innermost, and reading some examples would touch
    all.

    Attributes:
      values: [N,n].
      shape: of one example, with n numbers.
    """

    values: jax.Array
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def create(cls, examples: Any) -> "ExampleRows":
        """Returns the rows of examples [N,...]."""
        return cls(examples.reshape(len(examples), -1), examples.shape[1:])

    def __getitem__(self, indices: jax.Array) -> jax.Array:
        """Returns some of the examples, [b,...]."""
        return self.values[indices].reshape(-1, *self.shape)


def loop_train_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Turns a step into a program of many steps, whose examples are on the device.

    Args:
      step: from `make_train_step`.

    Returns:
      `steps(state, teacher_variables, examples, indices, seed, count) -> (state, metrics)`, to be
      mapped with `distributed.shard_step` with the batch axis 1 of `indices`: int [n,b], whose row
      i has the indices of step i into the examples, a tree of `ExampleRows`. The first `count`
      steps are done; the remaining entries of the metrics, float32 [n], are zero.
    """

    def is_rows(x: Any) -> bool:
        return isinstance(x, ExampleRows)

    def steps(
        state: TrainState,
        teacher_variables: Any,
        examples: dict[str, Any],
        indices: jax.Array,
        seed: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def step_i(
            i: jax.Array | int, state: TrainState
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = jax.tree.map(lambda rows: rows[indices[i]], examples, is_leaf=is_rows)
            return step(state, teacher_variables, batch, seed)

        def body(i: jax.Array, carry: tuple) -> tuple:
            state, history = carry
            state, metrics = step_i(i, state)
            return state, jax.tree.map(lambda values, x: values.at[i].set(x), history, metrics)

        _, shapes = jax.eval_shape(lambda state: step_i(0, state), state)
        history = {name: jnp.zeros(len(indices), x.dtype) for name, x in shapes.items()}
        # On GPUs XLA asks the host before each step, since the count is an argument; a constant one
        # would need a second program for the last, shorter chunk.
        return jax.lax.fori_loop(0, count, body, (state, history))

    return steps


def vmap_train_step(
    step: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Vectorises a step over several networks with `jax.vmap`.

    Args:
      step: `(state, *arguments) -> (state, metrics)`, from `make_train_step` or
        `loop_train_steps`.
      in_axes: of the arguments, as in `jax.vmap`; None: the networks share the argument.

    Returns:
      `vmapped(states, *arguments) -> (states, metrics)`, with a tuple of states and one of metrics.
    """

    def vmapped(states: tuple[TrainState, ...], *arguments: Any) -> tuple[tuple, tuple]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        together = jax.vmap(step, (0, *in_axes))(stacked, *arguments)
        results = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(states))]
        states, metrics = zip(*results, strict=True)
        return states, metrics

    return vmapped
