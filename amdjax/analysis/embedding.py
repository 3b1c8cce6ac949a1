"""The geometry of embeddings: two-dimensional pictures, and their spectrum."""

from typing import NamedTuple

import jax
import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from amdjax.errors import UserError

_PERPLEXITY = 30.0  # of t-SNE; its authors recommend 5 to 50


def tsne(embeddings: jax.Array, seed: int) -> np.ndarray:
    """Lays embeddings out in the plane so that neighbours stay neighbours.

    t-SNE (van der Maaten & Hinton, JMLR 2008) from principal components, with perplexity 30, or
    (N - 1) / 3 if that is less. The AMC code normalises the embeddings first; here they are taken
    as they come.

    Args:
      embeddings: float [N,D], N at least 4 and D at least 2, not all equal.
      seed: of the layout.

    Returns:
      float32 [N,2].

    Raises:
      UserError: on other shapes, values that are not finite, or embeddings that are all equal.
    """
    embeddings = _checked(embeddings)
    count, dimension = embeddings.shape
    if count < 4 or dimension < 2:
        raise UserError(
            f"t-SNE needs at least 4 embeddings of dimension 2 or more, not {count} of {dimension}"
        )
    if not np.ptp(embeddings, axis=0).any():
        raise UserError("t-SNE: all embeddings are equal, so there is nothing to lay out")
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # On few examples OpenMP's threads cost more than they save: ten times as much on busy cores.
    with threadpool_limits(1):
        return layout.fit_transform(embeddings.astype(np.float32))


class Components(NamedTuple):
    """Embeddings seen along the axes of their largest variance, see `pca`.

    Attributes:
      coordinates: float64 [N,K].
      explained: float64 [K], the share of the variance along each axis; 0 where all embeddings are
        equal.
      singular_values: float64 [min(N,D)], of the centred embeddings, descending and divided by the
        first; they show how many dimensions are used. 0 where all embeddings are equal.
    """

    coordinates: np.ndarray
    explained: np.ndarray
    singular_values: np.ndarray


def pca(embeddings: jax.Array, components: int = 2) -> Components:
    """Projects embeddings on the axes of their largest variance.

    With the singular value decomposition `X - mean = U S V^T` the coordinates are `U S` and the
    explained variance ratio is `S^2 / sum(S^2)`. Signs are such that the largest entry of each
    axis is positive.

    Args:
      embeddings: float [N,D].
      components: K, at most the smaller of N and D.

    Raises:
      UserError: on another shape, values that are not finite, or an impossible K.
    """
    embeddings = _checked(embeddings)
    if not 1 <= components <= min(embeddings.shape):
        raise UserError(
            f"{components} principal components of {embeddings.shape[0]} embeddings of dimension "
            f"{embeddings.shape[1]}: choose 1 to {min(embeddings.shape)}"
        )
    centred = _centred(embeddings)
    # R of X = Q R has the same S and V, and is small where examples are many more than dimensions.
    _, s, vt = np.linalg.svd(np.linalg.qr(centred, mode="r"), full_matrices=False)
    axes = vt[:components]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1))
    variance = np.square(s)
    explained = variance[:components] / (variance.sum() or 1.0)
    return Components(centred @ axes.T, explained, s / (s[0] or 1.0))


def _checked(embeddings: jax.Array) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or not embeddings.size:
        raise UserError(f"embeddings must be [N,D], not {list(embeddings.shape)}")
    if not np.isfinite(embeddings).all():
        raise UserError("some embeddings are not finite")
    return embeddings


def _centred(embeddings: np.ndarray) -> np.ndarray:
    shifted = embeddings - embeddings[0]  # exactly zero if all are equal, as the mean need not be
    return shifted - shifted.mean(0)
