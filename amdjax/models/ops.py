"""Convolution and sums over channels, in the forms that XLA computes fast on every platform.

On CPU the plain forms take two to ten times as long; on accelerators they are used as they are.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **settings: Any,
) -> jax.Array:
    """Convolves images, for flax's `nn.Conv(conv_general_dilated=convolve)`.

    Reverse-mode derivatives only, where the channels are not divided into groups.

    Args:
      x: float [B,H,W,C].
      kernel: float [kh,kw,C,D].
      strides: of height and width.
      padding: zeros (before, behind) along height and width, or "SAME" or "VALID".
      feature_group_count: groups of channels, as in `jax.lax.conv_general_dilated`.
      **settings: its other arguments; none that dilates.

    Returns:
      float [B,h,w,D].
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    strides, padding = tuple(strides), tuple(map(tuple, padding))
    if feature_group_count == 1:
        return _dense(x, kernel, strides, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, **settings
    )


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple, padding: Padding) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


_dense = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _dense_forward(x: jax.Array, kernel: jax.Array, strides: tuple, padding: Padding) -> tuple:
    return _plain(x, kernel, strides, padding), (x, kernel)


def _dense_backward(strides: tuple, padding: Padding, inputs: tuple, grad: jax.Array) -> tuple:
    x, kernel = inputs

    def of_kernel(x: jax.Array, grad: jax.Array, padding: Padding = padding) -> jax.Array:
        convolution = partial(_plain, x, strides=strides, padding=padding)
        return jax.linear_transpose(convolution, kernel)(grad)[0]

    def of_kernel_on_cpu(x: jax.Array, grad: jax.Array) -> jax.Array:
        # A negative padding keeps this one convolution away from oneDNN, which takes the output's
        # gradient for a kernel as large as the image and needs 2 to 3 times as long. The barrier
        # keeps XLA from computing the activations again, in the order of memory that this
        # convolution wants.
        (before, behind), width = padding
        x = jnp.pad(x, ((0, 0), (0, behind + 1), (0, 0), (0, 0)))
        return of_kernel(*jax.lax.optimization_barrier((x, grad)), ((before, -1), width))

    (of_x,) = jax.linear_transpose(
        lambda x: _plain(x, kernel, strides, padding), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(grad)
    return of_x, jax.lax.platform_dependent(x, grad, cpu=of_kernel_on_cpu, default=of_kernel)


_dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def channel_sum(x: jax.Array) -> jax.Array:
    """Sums over all axes but the last: float [...,C] to [C]."""
    return _channel_sum(x)


def _channel_sum(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(
        x, cpu=_sum_by_product, default=lambda x: jnp.sum(x, axis=tuple(range(x.ndim - 1)))
    )


def _sum_by_product(x: jax.Array) -> jax.Array:
    # XLA's own reduction is 3 to 20 times as slow there, and less exact.
    over_batch = jnp.ones(len(x), x.dtype) @ x.reshape(len(x), -1)
    return jnp.sum(over_batch.reshape(-1, x.shape[-1]), axis=0)


channel_sum.defvjp(
    lambda x: (_channel_sum(x), x), lambda x, grad: (jnp.broadcast_to(grad, x.shape),)
)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def per_channel(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeats values [C] to a shape (...,C): what `channel_sum` is the gradient of."""
    return jnp.broadcast_to(values, shape)


per_channel.defvjp(
    lambda values, shape: (jnp.broadcast_to(values, shape), None),
    lambda shape, _, grad: (channel_sum(grad),),
)
