"""Convolution and reductions in the forms that are fast on CPU, where plain JAX takes 2 to 10 times
as long.

Only for code that is compiled for CPU, see `amdjax.cpu.workarounds_enabled`. Values and gradients
are those of the plain forms up to rounding. Those with a custom gradient have reverse-mode
derivatives only.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from amdjax.cpu import kernels

_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = tuple[tuple[int, int], tuple[int, int]]
Tree = TypeVar("Tree")


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

    Args:
      x: float [B,H,W,C].
      kernel: float [kh,kw,C,D].
      strides: of height and width.
      padding: zeros (before, after) along height and width, or "SAME" or "VALID".
      feature_group_count: number of groups of channels; with more than one, or with a dilation,
        this is `jax.lax.conv_general_dilated`.
      **settings: the other arguments of that function.

    Returns:
      float [B,h,w,D].
    """
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    strides, padding = tuple(strides), tuple((before, after) for before, after in padding)
    dilations = (settings.get(f"{side}_dilation") or () for side in ("lhs", "rhs"))
    if feature_group_count == 1 and all(n == 1 for dilation in dilations for n in dilation):
        return _conv(x, kernel, strides, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, **settings
    )


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple, padding: Padding) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_LAYOUT)


_conv = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _conv_forward(x: jax.Array, kernel: jax.Array, strides: tuple, padding: Padding) -> tuple:
    return _plain(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides: tuple, padding: Padding, inputs: tuple, grad: jax.Array) -> tuple:
    x, kernel = inputs
    (grad_x,) = jax.linear_transpose(
        lambda x: _plain(x, kernel, strides, padding), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(grad)
    if kernels.supports_kernel_gradient(x, kernel, padding):
        return grad_x, kernels.kernel_gradient(x, grad, kernel.shape[:2], strides, padding)
    return grad_x, _kernel_gradient(x, kernel, strides, padding, grad)


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, strides: tuple, padding: Padding, grad: jax.Array
) -> jax.Array:
    # As in the plain form, a convolution of the images with the output's gradient that sums over
    # the batch, but with a row's positions and channels as one long axis: the C channels of a
    # position become C offsets of the kernel, which moves along that axis with a dilation of C.
    # oneDNN is fast where the last axis of the output is long: here kw C, otherwise kw. The
    # barrier keeps XLA from computing the gradient twice, in the original and the transposed order.
    batch, height, width, channels = x.shape
    (top, bottom), (left, right) = (
        (before, stride * (positions - 1) + taps - size - before)
        for (before, _), stride, positions, taps, size in zip(
            padding, strides, grad.shape[1:3], kernel.shape[:2], (height, width), strict=True
        )
    )
    out = jax.lax.conv_general_dilated(
        x.reshape(batch, -1).T.reshape(1, height, width * channels, batch),
        jax.lax.optimization_barrier(grad).transpose(1, 2, 0, 3),
        (1, 1),
        ((top, bottom), (left * channels, right * channels)),
        rhs_dilation=(strides[0], strides[1] * channels),
        dimension_numbers=_LAYOUT,
    )
    return out.reshape(kernel.shape)


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums x and its squares over all axes but the last.

    Args:
      x: float32 [...,C].

    Returns:
      (float32 [C], float32 [C]).
    """
    return _channel_sums(x, x)


moments.defvjp(
    lambda x: (_channel_sums(x, x), x),
    lambda x, grads: (grads[0] + 2 * grads[1] * x,),
)


@jax.custom_vjp
def affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns `x * factor + offset`, with one factor and one offset for each channel.

    Args:
      x: float [...,C].
      factor: float32 [C].
      offset: float32 [C].

    Returns:
      float32 [...,C].
    """
    return x * factor + offset


def _affine_backward(inputs: tuple, grad: jax.Array) -> tuple[jax.Array, ...]:
    x, factor = inputs
    grad_offset, grad_factor = _channel_sums(grad, x)
    return (grad * factor).astype(x.dtype), grad_factor, grad_offset


affine.defvjp(lambda x, factor, offset: (affine(x, factor, offset), (x, factor)), _affine_backward)


def _channel_sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of a and of a * b over all axes but the last."""
    if kernels.supports_channel_sums(a, b):
        return kernels.channel_sums(a, b)
    return _sum_by_product(a), _sum_by_product(a * b)


def _sum_by_product(x: jax.Array) -> jax.Array:
    # XLA's reduction is 3 to 20 times as slow on CPU, and less exact.
    over_batch = jnp.ones(len(x), x.dtype) @ x.reshape(len(x), -1)
    return jnp.sum(over_batch.reshape(-1, x.shape[-1]), axis=0)


@jax.custom_vjp
def sum_of_squares(x: jax.Array) -> jax.Array:
    """Sums the squares of x over the last axis.

    XLA adds them one by one on CPU. Sums of halves use its vector units, in a single loop.

    Args:
      x: float32 [...,C].

    Returns:
      float32 [...].
    """
    squares = jnp.square(x)
    while squares.shape[-1] > 8 and squares.shape[-1] % 2 == 0:
        half = squares.shape[-1] // 2
        squares = squares[..., :half] + squares[..., half:]
    return jnp.sum(squares, axis=-1)


sum_of_squares.defvjp(
    lambda x: (sum_of_squares(x), x), lambda x, grad: (2 * x * jnp.expand_dims(grad, -1),)
)


def materialize(tree: Tree) -> Tree:
    """Returns arrays unchanged, and makes XLA write them to memory.

    Otherwise XLA on CPU recomputes them in the loop of every sum over them, one value at a time
    instead of in vectors.
    """
    return jax.lax.optimization_barrier(tree)
