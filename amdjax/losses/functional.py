"""Operations on logits and feature maps that the losses share.

Every function is finite on maps that are all zero, and its gradient there is not large.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from amdjax import cpu
from amdjax.errors import UserError

COSINE_EPS = 1e-7  # the published distance of a clipped cosine from -1 and 1
_ZERO_NORM = 1e-12  # the largest norm that counts as that of a vector of zeros
_TINY = 1e-30  # below the square of any float32 norm of interest, above float32's underflow


def promote_to_float32(x: jax.Array) -> jax.Array:
    """Casts narrower floats to float32: losses are differences too small for bfloat16."""
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


def clip_cosine(cosine: jax.Array) -> jax.Array:
    """Clips to [-1 + 1e-7, 1 - 1e-7], as the published losses do before arccos.

    The slope of arccos is infinite at -1 and 1.
    """
    return jnp.clip(cosine, -1.0 + COSINE_EPS, 1.0 - COSINE_EPS)


def l2_normalize(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Scales x to unit L2 norm over `axis`: `x / |x|`; 0, with gradient 0, where `|x| <= 1e-12`.

    PyTorch's `x / max(|x|, 1e-12)` has the gradient 1e12 there, such as for one pair of equal
    embeddings in a batch.

    Args:
      x: float array.
      axis: the axes over which the norm is taken.

    Returns:
      The scaled array, of x's shape and dtype.
    """
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    is_zero = square <= _ZERO_NORM**2  # false for NaN, which stays
    # Not rsqrt: it is less exact on some platforms, and the losses are small differences of unit
    # vectors.
    return jnp.where(is_zero, 0.0, x / jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def log_binary(log_p: jax.Array, is_class: jax.Array) -> jax.Array:
    """Returns the log-probabilities of one class of each sample, and of all its other classes.

    Args:
      log_p: float [B,C], log-probabilities.
      is_class: bool [B,C], true for one class of each sample.

    Returns:
      float [B,2].
    """
    of_class = jnp.sum(jnp.where(is_class, log_p, 0.0), axis=-1)
    # Not log(1 - p), which is -inf where the softmax saturates.
    of_others = jax.nn.logsumexp(jnp.where(is_class, -jnp.inf, log_p), axis=-1)
    return jnp.stack([of_class, of_others], axis=-1)


def attention_map(feature: jax.Array) -> jax.Array:
    """Returns the attention map of a feature: the sum of squares over channels.

    `Q(h, w) = sum_c f(h, w, c)^2` (Zagoruyko & Komodakis 2017, p = 2).

    Args:
      feature: float [B,H,W,C], of any sign.

    Returns:
      float32 [B,H,W], not negative.
    """
    x = promote_to_float32(feature)
    if cpu.workarounds_enabled():
        return cpu.ops.sum_of_squares(x)
    return jnp.sum(jnp.square(x), axis=-1)


def comparable(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns two arrays for the same images in float32, of which the teacher's has no gradient.

    Args:
      student: float [B,...].
      teacher: float [B,...].

    Raises:
      UserError: if they have different numbers of images.
    """
    if student.shape[:1] != teacher.shape[:1]:
        raise UserError(
            "the outputs of student and teacher must be for the same images, but have the shapes "
            f"{list(student.shape)} and {list(teacher.shape)}"
        )
    return promote_to_float32(student), promote_to_float32(jax.lax.stop_gradient(teacher))


def comparable_entries(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `comparable` arrays of equal shapes.

    Args:
      student: float [B,...], such as logits [B,C].
      teacher: likewise.

    Raises:
      UserError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise UserError(
            "the outputs of student and teacher are compared entry by entry, but have the shapes "
            f"{list(student.shape)} and {list(teacher.shape)}"
        )
    return comparable(student, teacher)


def comparable_maps(
    student_feature: jax.Array, teacher_feature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns `comparable` features of equal height and width.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C'].

    Returns:
      The two features after `match_size`; float64 stays.

    Raises:
      UserError: as `comparable` and `match_size`.
    """
    return match_size(*comparable(student_feature, teacher_feature))


def match_size(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average-pools the larger of two features to the height and width of the smaller.

    Args:
      student: float [B,H,W,C].
      teacher: float [B,H',W',C'].

    Returns:
      The two features with equal height and width.

    Raises:
      UserError: if the larger size is not a whole multiple of the smaller, or if one feature is
        larger in height and the other in width.
    """
    (sh, sw), (th, tw) = student.shape[1:3], teacher.shape[1:3]
    if sh >= th and sw >= tw:
        return resize(student, th, tw), teacher
    if sh <= th and sw <= tw:
        return student, resize(teacher, sh, sw)
    raise UserError(_size_message(sh, sw, th, tw))


def check_channels(student: jax.Array, teacher: jax.Array, subject: str, remedy: str) -> None:
    """Makes sure that two features [...,C] have equally many channels.

    Args:
      student: of the student.
      teacher: of the teacher.
      subject: the loss, for the error.
      remedy: what to do, for the error.

    Raises:
      UserError: if they do not.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise UserError(
            f"{subject} compares channel by channel, but the student has {student.shape[-1]} "
            f"channels and the teacher {teacher.shape[-1]}: {remedy}"
        )


def unit_attention_maps(
    student_feature: jax.Array, teacher_feature: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the attention maps of two features in the smaller size, divided by their norms.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient.

    Returns:
      Two float32 [B,h,w], see `comparable_maps`, `attention_map` and `l2_normalize`.

    Raises:
      UserError: if the larger map is not a whole multiple of the smaller.
    """
    student, teacher = comparable_maps(student_feature, teacher_feature)
    return (
        l2_normalize(attention_map(student), axis=(1, 2)),
        l2_normalize(attention_map(teacher), axis=(1, 2)),
    )


def _size_message(h: int, w: int, height: int, width: int) -> str:
    return (
        f"feature maps of {h}x{w} and {height}x{width} cannot be compared: in [B,H,W,C] the larger "
        "must be a whole multiple of the smaller; choose other layers (in a config the `features` "
        "of the loss), another network or another image size"
    )


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes maps: averages over whole windows to shrink, repeats positions to enlarge.

    Args:
      x: float [B,H,W,...].
      height: of the result.
      width: of the result.

    Returns:
      float [B,height,width,...].

    Raises:
      UserError: if one size is not a whole multiple of the other.
    """
    for axis, size in ((1, height), (2, width)):
        length = x.shape[axis]
        if max(length, size) % min(length, size):
            raise UserError(_size_message(*x.shape[1:3], height, width))
        if length > size:
            windows = (*x.shape[:axis], size, length // size, *x.shape[axis + 1 :])
            x = x.reshape(windows).mean(axis + 1)
        else:
            x = jnp.repeat(x, size // length, axis=axis)
    return x


def adaptive_cells(x: jax.Array, rows: int, columns: int) -> Iterator[jax.Array]:
    """Cuts maps into cells of equal extent, which overlap where the grid does not divide the map.

    Cell i of n covers the positions from `floor(i * length / n)` up to, not including,
    `ceil((i + 1) * length / n)`, as in PyTorch's adaptive pooling.

    Args:
      x: [B,H,W,C].
      rows: number of cells in the direction of the height.
      columns: number of cells in the direction of the width.

    Yields:
      rows * columns arrays [B,h,w,C], row by row.
    """
    for top, bottom in _cell_bounds(x.shape[1], rows):
        for left, right in _cell_bounds(x.shape[2], columns):
            yield x[:, top:bottom, left:right]


def adaptive_average_pool(x: jax.Array, height: int, width: int) -> jax.Array:
    """Averages maps over the cells of `adaptive_cells`.

    Args:
      x: float [B,H,W,C].
      height: of the result.
      width: of the result.

    Returns:
      float [B,height,width,C].
    """
    for axis, size in ((1, height), (2, width)):
        length = x.shape[axis]
        if length != size:
            cells = [
                x[(slice(None),) * axis + (slice(start, stop),)].mean(axis, keepdims=True)
                for start, stop in _cell_bounds(length, size)
            ]
            x = jnp.concatenate(cells, axis=axis)
    return x


def pool_to_smaller(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Averages maps of any two sizes to the smaller height and the smaller width.

    Unlike `match_size`, it pools in overlapping cells where no size is a multiple of the other.

    Args:
      first: float [B,H,W,C].
      second: float [B,H',W',C'].

    Returns:
      The two maps after `adaptive_average_pool`.
    """
    (h, w), (height, width) = first.shape[1:3], second.shape[1:3]
    size = min(h, height), min(w, width)
    return adaptive_average_pool(first, *size), adaptive_average_pool(second, *size)


def _cell_bounds(length: int, cells: int) -> list[tuple[int, int]]:
    return [(i * length // cells, -(-(i + 1) * length // cells)) for i in range(cells)]


def batch_norm(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """Returns `(x - mean) / sqrt(var + 1e-5) * scale + bias`, with PyTorch's epsilon.

    Args:
      x: float [...,C].
      mean: of each channel, float [C], as are the others.
      var: variance.
      scale: factor.
      bias: offset.
    """
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias
