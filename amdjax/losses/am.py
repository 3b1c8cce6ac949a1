"""Angular-margin distillation: Jeon et al., Neurocomputing 518 (2023) 466-481."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from amdjax import cpu
from amdjax.errors import UserError, unknown_name
from amdjax.losses import functional

AM_TERMS = ("angular", "positive", "negative")
_NORM_EPS = 1e-6  # added to the norm of a map, as published


class AMTerms(NamedTuple):
    """One array for each term of the AM loss: the terms [B], or the maps [B,H,W] of one network."""

    angular: jax.Array
    positive: jax.Array
    negative: jax.Array


def am_terms(
    student_feature: jax.Array,
    teacher_feature: jax.Array,
    margin: float = 1.35,
    scale: float = 64.0,
) -> AMTerms:
    """Returns the angular, positive and negative terms of one layer, for each sample.

    With the attention map `q = Q / (|Q| + 1e-6)`, `Q = sum_c f^2`, the logits at each position are
    `a = scale * cos(margin * arccos q)` (positive), `b = scale * (1 - q)` (negative) and
    `G = log_sigmoid(a - b)` (angular). Each is scaled to unit L2 norm over the positions of the
    map, and a term is the mean over the positions of the squared difference between teacher and
    student. The published weight of 5000 refers to this mean (not to the printed Frobenius norm),
    and the positive term includes the margin, as in the published code.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient. The larger map is average-pooled.
      margin: m, multiplies the angle; dimensionless.
      scale: s, multiplies the logits.

    Returns:
      `AMTerms`; bfloat16 features are cast to float32 first.

    Raises:
      UserError: if the larger map is not a whole multiple of the smaller.
    """
    student, teacher = _maps(student_feature, teacher_feature, margin, scale)
    return _distances(student, teacher)


def am_loss(
    student_feature: jax.Array,
    teacher_feature: jax.Array,
    margin: float = 1.35,
    scale: float = 64.0,
    terms: tuple[str, ...] = AM_TERMS,
) -> jax.Array:
    """Returns the global AM loss of one layer, `(A + P + N) / 3` (Eq. 7), for each sample.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient.
      margin: m, multiplies the angle.
      scale: s, multiplies the logits.
      terms: which of "angular", "positive", "negative" to add (Figure 5). The divisor is always
        3, so that the weight of a term does not depend on the other terms.

    Returns:
      float32 [B].

    Raises:
      UserError: on unknown terms, an empty list of terms, or sizes that do not match.
    """
    return am_global_local_loss(student_feature, teacher_feature, margin, scale, 1.0, 1, terms)


def am_global_local_loss(
    student_feature: jax.Array,
    teacher_feature: jax.Array,
    margin: float = 1.35,
    scale: float = 64.0,
    global_weight: float = 0.8,
    grid: int = 2,
    terms: tuple[str, ...] = AM_TERMS,
    mask_threshold: float = 0.0,
) -> jax.Array:
    """Returns the AM loss of one layer over the whole map and its patches, for each sample.

    `global_weight * AM(map) + (1 - global_weight) * mean_k AM(patch_k)` (Eq. 9). Patches are cut
    from the globally normalised map; the unit L2 norms of the logits are taken within each patch.
    `patches` defines the patches where the grid does not divide the map. Under `jax.jit`
    all settings but `margin` and `scale` are static arguments.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']; receives no gradient.
      margin: m, multiplies the angle.
      scale: s, multiplies the logits.
      global_weight: weight of the whole map, between 0 (patches only) and 1 (whole map only).
      grid: patches in each direction; 2 gives the paper's four quadrants.
      terms: which of "angular", "positive", "negative" to add.
      mask_threshold: both maps are set to zero, before they are normalised, where the teacher's
        attention map divided by its maximum is not above this (masked features; 0.5 in the paper);
        0: no mask.

    Returns:
      float32 [B].

    Raises:
      UserError: on unknown terms, a weight outside [0, 1], a threshold outside [0, 1), a grid finer
        than the map, or sizes that do not match.
    """
    _check_terms(terms)
    if not 0.0 <= global_weight <= 1.0:
        raise UserError(f"global_weight must be between 0 and 1, not {global_weight}")
    if not 0.0 <= mask_threshold < 1.0:
        raise UserError(f"mask_threshold must be at least 0 and below 1, not {mask_threshold}")
    student, teacher = _maps(student_feature, teacher_feature, margin, scale, mask_threshold)
    loss = jnp.zeros(student.angular.shape[0], jnp.float32)
    if global_weight > 0.0:
        loss += global_weight * _mean_of_terms(student, teacher, terms)
    if global_weight < 1.0:
        loss += (1.0 - global_weight) * _mean_over_patches(student, teacher, terms, grid)
    return loss


def _maps(
    student_feature: jax.Array,
    teacher_feature: jax.Array,
    margin: float,
    scale: float,
    mask_threshold: float = 0.0,
) -> tuple[AMTerms, AMTerms]:
    """Returns the maps G, a and b [B,H,W] of student and teacher."""
    student, teacher = (
        functional.attention_map(feature)
        for feature in functional.comparable_maps(student_feature, teacher_feature)
    )
    if mask_threshold > 0.0:
        keep = teacher > mask_threshold * jnp.max(teacher, axis=(1, 2), keepdims=True)
        student, teacher = jnp.where(keep, student, 0.0), jnp.where(keep, teacher, 0.0)

    def maps(attention: jax.Array) -> AMTerms:
        cosine = attention / (functional.safe_norm(attention, axis=(1, 2)) + _NORM_EPS)
        positive = scale * jnp.cos(margin * jnp.arccos(functional.clip_cosine(cosine)))
        negative = scale * (1.0 - cosine)
        return AMTerms(jax.nn.log_sigmoid(positive - negative), positive, negative)

    both = maps(student), maps(teacher)
    return cpu.ops.materialize(both) if cpu.workarounds_enabled() else both


def _distances(student: AMTerms, teacher: AMTerms, grid: int = 1) -> AMTerms:
    """Returns the terms [B], means over the equal patches into which `grid` divides the maps."""

    def distance(s: jax.Array, t: jax.Array) -> jax.Array:
        batch, height, width = s.shape
        s, t = (
            functional.l2_normalize(
                x.reshape(batch, grid, height // grid, grid, width // grid), axis=(2, 4)
            )
            for x in (s, t)
        )
        return jnp.mean(jnp.square(s - t), axis=(1, 2, 3, 4))

    return AMTerms(*(distance(s, t) for s, t in zip(student, teacher, strict=True)))


def _mean_of_terms(
    student: AMTerms, teacher: AMTerms, terms: tuple[str, ...], grid: int = 1
) -> jax.Array:
    parts = _distances(student, teacher, grid)._asdict()
    return sum(parts[name] for name in terms) / len(AM_TERMS)


def _mean_over_patches(
    student: AMTerms, teacher: AMTerms, terms: tuple[str, ...], grid: int
) -> jax.Array:
    _check_grid(student.angular, grid)
    if not any(size % grid for size in student.angular.shape[1:]):
        return _mean_of_terms(student, teacher, terms, grid)
    cut = (
        (AMTerms(*corners) for corners in zip(*(patches(x, grid) for x in side), strict=True))
        for side in (student, teacher)
    )
    local: list[Any] = [_mean_of_terms(*pair, terms) for pair in zip(*cut, strict=True)]
    return sum(local) / len(local)


def _check_terms(terms: tuple[str, ...]) -> None:
    if not terms:
        raise UserError(f"terms is empty; name at least one of {', '.join(AM_TERMS)}")
    for name in terms:
        if name not in AM_TERMS:
            raise unknown_name("AM term", name, AM_TERMS)
    if len(set(terms)) < len(terms):
        raise UserError(f"duplicate term in terms={tuple(terms)}")


def _check_grid(x: jax.Array, grid: int) -> None:
    """Raises UserError if a grid is below 1 or finer than the maps x [...,H,W]."""
    height, width = x.shape[-2:]
    if not 1 <= grid <= min(height, width):
        raise UserError(
            f"a grid of {grid}x{grid} patches does not fit a {height}x{width} feature map: "
            f"it must be at least 1 and at most {min(height, width)}"
        )


def patches(x: jax.Array, grid: int) -> Iterator[jax.Array]:
    """Cuts maps into a grid of patches, row by row.

    Patch row i covers the rows from `i*H // grid` up to, not including, `(i+1)*H // grid`, and
    likewise for columns: every position is in exactly one patch. Where the grid does not divide the
    map, patches differ by at most one in height and width (a 7x7 map in a 2x2 grid: 3 and 4).

    Args:
      x: [..., H, W].
      grid: number of patches in each direction.

    Yields:
      grid^2 arrays [..., h, w].

    Raises:
      UserError: if the grid is below 1 or finer than the map.
    """
    _check_grid(x, grid)
    height, width = x.shape[-2:]
    rows = [i * height // grid for i in range(grid + 1)]
    columns = [i * width // grid for i in range(grid + 1)]
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            yield x[..., top:bottom, left:right]
