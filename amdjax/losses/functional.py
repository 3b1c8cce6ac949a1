"""The safe operations on feature maps that the losses are made of.

Every function is finite, in value and in gradient, on maps that are all zero.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from amdjax.errors import UserError

_TINY = 1e-30  # below the square of any float32 norm that matters, above float32's underflow


def promote_to_float32(x: jax.Array) -> jax.Array:
    """Casts to float32 what is narrower: bfloat16 cannot hold the differences that losses are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def safe_norm(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Returns the L2 norm over `axis`, with gradient zero (not NaN) where the norm is zero.

    Args:
      x: float array.
      axis: the axes to reduce; they are kept with length 1.

    Returns:
      `sqrt(max(sum(x^2), 1e-30))`, of x's shape with 1 at `axis`.
    """
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=axis, keepdims=True), _TINY))


def abs_zero_grad(x: jax.Array) -> jax.Array:
    """Returns |x| with gradient zero at zero, where `jnp.abs` has gradient one."""
    return x * jnp.sign(x)


def l2_normalize(x: jax.Array, axis: int | tuple[int, ...], eps: float = 1e-12) -> jax.Array:
    """Scales x to unit L2 norm over `axis`: `x / max(|x|, eps)`.

    Args:
      x: float array.
      axis: the axes that share one norm.
      eps: the smallest divisor; a zero vector stays zero.

    Returns:
      The scaled array, of x's shape and dtype.
    """
    # Not rsqrt: its last bits are lost on some platforms, and the losses are small differences of
    # unit vectors.
    square = jnp.maximum(jnp.sum(jnp.square(x), axis=axis, keepdims=True), eps * eps)
    return x / jnp.sqrt(square)


def attention_map(feature: jax.Array) -> jax.Array:
    """Returns the attention map of a feature: the sum of squares over channels.

    `Q(h, w) = sum_c f(h, w, c)^2` (Zagoruyko & Komodakis 2017, p = 2).

    Args:
      feature: float [B,H,W,C], signed or not.

    Returns:
      float32 [B,H,W], not negative.
    """
    return _sum_of_squares(promote_to_float32(feature))


@jax.custom_vjp
def _sum_of_squares(x: jax.Array) -> jax.Array:
    def plain(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(x), axis=-1)

    def by_halves(x: jax.Array) -> jax.Array:
        # XLA adds one value to the next on CPU; halves it adds by vectors, all in one loop.
        squares = jnp.square(x)
        while squares.shape[-1] > 8 and squares.shape[-1] % 2 == 0:
            half = squares.shape[-1] // 2
            squares = squares[..., :half] + squares[..., half:]
        return jnp.sum(squares, axis=-1)

    return jax.lax.platform_dependent(x, cpu=by_halves, default=plain)


_sum_of_squares.defvjp(
    lambda x: (_sum_of_squares(x), x), lambda x, grad: (2 * x * jnp.expand_dims(grad, -1),)
)


def materialize(x: Any) -> Any:
    """Returns arrays as they are; on CPU, what sums them up does not compute them anew.

    XLA would compute them within the loop of each sum, value by value instead of by vectors.
    """
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def match_size(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average-pools the larger of two features to the height and width of the smaller.

    Args:
      student: float [B,H,W,C].
      teacher: float [B,H',W',C'].

    Returns:
      The two features with equal height and width.

    Raises:
      UserError: if the larger size is not a multiple of the smaller, so that the average over
        whole windows does not exist, or if one is larger in height and the other in width.
    """
    (sh, sw), (th, tw) = student.shape[1:3], teacher.shape[1:3]
    if sh >= th and sw >= tw:
        return resize(student, th, tw), teacher
    if sh <= th and sw <= tw:
        return student, resize(teacher, sh, sw)
    raise UserError(_size_message(sh, sw, th, tw))


def _size_message(h: int, w: int, height: int, width: int) -> str:
    return (
        f"feature maps of {h}x{w} and {height}x{width} cannot be compared: the larger must be a "
        "whole multiple of the smaller; choose other `features` for this loss, another model or "
        "another image size"
    )


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """Brings maps to a size: averages over whole windows where smaller, repeats where larger.

    Args:
      x: float [B,H,W,...].
      height: wanted.
      width: wanted.

    Returns:
      float [B,height,width,...].

    Raises:
      UserError: if one size is no whole multiple of the other.
    """
    for axis, size in ((1, height), (2, width)):
        have = x.shape[axis]
        if max(have, size) % min(have, size):
            raise UserError(_size_message(*x.shape[1:3], height, width))
        if have > size:
            windows = (*x.shape[:axis], size, have // size, *x.shape[axis + 1 :])
            x = x.reshape(windows).mean(axis + 1)
        else:
            x = jnp.repeat(x, size // have, axis=axis)
    return x


def check_grid(x: jax.Array, grid: int) -> None:
    """Raises UserError if a grid is below 1 or finer than the maps x [...,H,W]."""
    height, width = x.shape[-2:]
    if not 1 <= grid <= min(height, width):
        raise UserError(
            f"a grid of {grid}x{grid} patches does not fit a {height}x{width} feature map: "
            f"grid must be between 1 and {min(height, width)}"
        )


def patches(x: jax.Array, grid: int) -> Iterator[jax.Array]:
    """Cuts maps into a grid of patches, row by row.

    Patch row i covers the rows `i*H // grid` up to `(i+1)*H // grid`, and columns alike: every
    position is in exactly one patch, and patches differ by at most one in height and width where
    the grid does not divide the map (a 7x7 map in a 2x2 grid: 3 and 4).

    Args:
      x: [..., H, W].
      grid: number of patches in each direction.

    Yields:
      grid^2 arrays [..., h, w].

    Raises:
      UserError: if the grid is below 1 or finer than the map.
    """
    check_grid(x, grid)
    height, width = x.shape[-2:]
    rows = [i * height // grid for i in range(grid + 1)]
    columns = [i * width // grid for i in range(grid + 1)]
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            yield x[..., top:bottom, left:right]
