"""The geometry of embeddings: two-dimensional layouts and singular values."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from amdjax.errors import UserError

_PERPLEXITY = 30.0  # of t-SNE; its authors recommend 5 to 50


def tsne(embeddings: jax.Array, seed: int) -> np.ndarray:
    """Returns a two-dimensional layout of embeddings that preserves neighbourhoods.

    t-SNE (van der Maaten & Hinton, JMLR 2008), initialised with principal components, with
    perplexity 30, or (N - 1) / 3 if that is less. Unlike in the AMC code, the embeddings are not
    normalised.

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
        raise UserError("t-SNE is undefined: all embeddings are equal")
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    # With few examples OpenMP's threads cost more than they save: ten times as much on busy cores.
    with threadpool_limits(1):
        return layout.fit_transform(embeddings.astype(np.float32))


class Components(NamedTuple):
    """Principal components of embeddings, see `pca`; all zero if the embeddings are all equal.

    Attributes:
      coordinates: float64 [N,K], of the embeddings along the first K components.
      explained: float64 [K], fraction of the variance along each of them.
      singular_values: float64 [min(N,D)], of the centred embeddings, divided by the largest one
        and descending.
    """

    coordinates: np.ndarray
    explained: np.ndarray
    singular_values: np.ndarray


def pca(embeddings: ArrayLike, components: int = 2) -> Components:
    """Returns the principal components of embeddings, with signs as in scikit-learn.

    Args:
      embeddings: float [N,D].
      components: K, at most the smaller of N and D.

    Raises:
      UserError: on another shape, values that are not finite, or a K out of range.
    """
    embeddings = _checked(embeddings)
    count = min(embeddings.shape)
    if not 1 <= components <= count:
        raise UserError(
            f"cannot compute {components} principal components of embeddings of shape "
            f"{list(embeddings.shape)}, which have {count}"
        )
    if not np.ptp(embeddings, axis=0).any():
        return Components(
            np.zeros([len(embeddings), components]), np.zeros(components), np.zeros(count)
        )
    model = PCA(svd_solver="full")
    coordinates = model.fit_transform(embeddings)
    return Components(
        coordinates[:, :components],
        model.explained_variance_ratio_[:components],
        model.singular_values_ / model.singular_values_[0],
    )


def _checked(embeddings: ArrayLike) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2 or not embeddings.size:
        raise UserError(f"expected embeddings [N,D], got the shape {list(embeddings.shape)}")
    if not np.isfinite(embeddings).all():
        raise UserError("the embeddings contain NaN or Inf")
    return embeddings
