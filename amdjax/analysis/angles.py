"""Angles that the angular losses change: within attention maps, and between embeddings."""

import jax
import jax.numpy as jnp
import numpy as np

from amdjax.errors import UserError
from amdjax.losses import functional


def map_angles(feature: jax.Array) -> jax.Array:
    """Returns the angle between the positive and the negative map of one layer, for each sample.

    `arccos <q, 1 - q> / (|q| |1 - q|)` over the positions of a map, with the positive map
    `q = Q / |Q|`, `Q = sum_c f^2`, and the negative map `1 - q` of the AM loss: 0 for uniform
    attention, 90 for attention at a single position or a zero map.

    Args:
      feature: float [B,H,W,C].

    Returns:
      float32 [B], in degrees, from 0 to 90.
    """
    positive = functional.l2_normalize(functional.attention_map(feature), axis=(1, 2))
    negative = functional.l2_normalize(1.0 - positive, axis=(1, 2))
    # Not arccos, which loses half of the digits of a small angle.
    opposite, adjacent = (
        functional.safe_norm(x, axis=(1, 2))[:, 0, 0]
        for x in (positive - negative, positive + negative)
    )
    return jnp.rad2deg(2.0 * jnp.arctan2(opposite, adjacent))


def geodesic_distances(embedding: jax.Array, labels: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the geodesic distances on the unit sphere within classes and between classes.

    `d_ij = arccos <z_i, z_j>` of the unit embeddings, for each pair i < j, with the inner product
    clipped to 1e-7 inside [-1, 1] as in the AMC loss. Time and memory grow as B^2.

    Args:
      embedding: float [B,D], not necessarily of unit norm.
      labels: int [B].

    Returns:
      (intra, inter): float64 arrays, in radians, of the pairs of the same class and of
      different classes; B (B - 1) / 2 pairs in all.

    Raises:
      UserError: if the shapes differ from these.
    """
    embedding, labels = jnp.asarray(embedding), np.asarray(labels)
    if embedding.ndim != 2 or labels.shape != embedding.shape[:1]:
        raise UserError(
            "expected an embedding [B,D] and labels [B], got shapes "
            f"{list(embedding.shape)} and {list(labels.shape)}"
        )
    unit = np.asarray(
        functional.l2_normalize(functional.promote_to_float32(embedding), axis=-1), np.float64
    )
    first, second = np.triu_indices(labels.size, k=1)
    cosine = (unit @ unit.T)[first, second]
    distance = np.arccos(np.clip(cosine, -1.0 + functional.COSINE_EPS, 1.0 - functional.COSINE_EPS))
    same = labels[first] == labels[second]
    return distance[same], distance[~same]


def map_cosine(student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
    """Returns the cosine between the attention maps of two layers, for each sample.

    `<Q_S, Q_T> / (|Q_S| |Q_T|)` over the positions, with `Q = sum_c f^2`.

    Args:
      student_feature: float [B,H,W,C].
      teacher_feature: float [B,H',W',C']. The larger feature is average-pooled.

    Returns:
      float32 [B], in [0, 1]; 0 for maps without a common position or a zero map.

    Raises:
      UserError: if the size of the larger map is not a multiple of the smaller.
    """
    student, teacher = (
        functional.l2_normalize(functional.attention_map(feature), axis=(1, 2))
        for feature in functional.match_size(
            functional.promote_to_float32(student_feature),
            functional.promote_to_float32(teacher_feature),
        )
    )
    return jnp.sum(student * teacher, axis=(1, 2))
