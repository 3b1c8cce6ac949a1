"""Convolution and sums over images and channels, in the forms that are fast on every platform.

On CPU the plain forms take two to ten times as long; on accelerators they are used as they are.
Reverse-mode derivatives only.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from amdjax.cpu import kernels

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

    def of_kernel(x: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda kernel: _plain(x, kernel, strides, padding), kernel)(
            grad
        )[0]

    def of_kernel_on_cpu(x: jax.Array, grad: jax.Array) -> jax.Array:
        if kernels.has_kernel_gradient(x, kernel, padding):
            return kernels.kernel_gradient(x, grad, kernel.shape[:2], strides, padding)
        # What `of_kernel` is too, a convolution of the images with the output's gradient that sums
        # over the batch, but with a row's positions and channels as one long axis: the C values of
        # a position are then C places of the kernel, which walks along that axis with gaps of C.
        # oneDNN is fast where the last axis of the output is long, here kw C, otherwise kw. The
        # barrier keeps XLA from computing the gradient again in the order of the transposition.
        batch, height, width, channels = x.shape
        (top, bottom), (left, right) = (
            (before, stride * (places - 1) + taps - size - before)
            for (before, _), stride, places, taps, size in zip(
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

    (of_x,) = jax.linear_transpose(
        lambda x: _plain(x, kernel, strides, padding), jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(grad)
    return of_x, jax.lax.platform_dependent(x, grad, cpu=of_kernel_on_cpu, default=of_kernel)


_dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums x and its squares over all axes but the last.

    Args:
      x: float32 [...,C].

    Returns:
      (float32 [C], float32 [C]).
    """
    return _sums(x, x)


moments.defvjp(
    lambda x: (_sums(x, x), x),
    lambda x, grads: (grads[0] + 2 * grads[1] * x,),
)


@jax.custom_vjp
def affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """Returns `x * factor + offset`, with one of each for a channel.

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
    of_offset, of_factor = _sums(grad, x)
    return (grad * factor).astype(x.dtype), of_factor, of_offset


affine.defvjp(lambda x, factor, offset: (affine(x, factor, offset), (x, factor)), _affine_backward)


def _sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sums of a and of a * b over all axes but the last."""
    return jax.lax.platform_dependent(a, b, cpu=_sums_on_cpu, default=_plain_sums)


def _plain_sums(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(a.ndim - 1))
    return jnp.sum(a, axes), jnp.sum(a * b, axes)


def _sums_on_cpu(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    if kernels.has_channel_sums(a, b):
        return kernels.channel_sums(a, b)
    return _sum_by_product(a), _sum_by_product(a * b)


def _sum_by_product(x: jax.Array) -> jax.Array:
    # XLA's own reduction is 3 to 20 times as slow there, and less exact.
    over_batch = jnp.ones(len(x), x.dtype) @ x.reshape(len(x), -1)
    return jnp.sum(over_batch.reshape(-1, x.shape[-1]), axis=0)
