"""The geometry of embeddings: two-dimensional pictures, and their spectrum."""

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


def pca(embeddings: jax.Array, components: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Projects embeddings on the axes of their largest variance.

    With the singular value decomposition `X - mean = U S V^T` the coordinates are `U S` and the
    explained variance ratio is `S^2 / sum(S^2)`. Signs are such that the largest entry of each
    axis is positive.

    Args:
      embeddings: float [N,D].
      components: K, at most the smaller of N and D.

    Returns:
      (coordinates float64 [N,K], explained variance ratio float64 [K], which is 0 where all
      embeddings are equal).

    Raises:
      UserError: on another shape, values that are not finite, or an impossible K.
    """
    embeddings = _checked(embeddings)
    if not 1 <= components <= min(embeddings.shape):
        raise UserError(
            f"{components} principal components of {embeddings.shape[0]} embeddings of dimension "
            f"{embeddings.shape[1]}: choose 1 to {min(embeddings.shape)}"
        )
    u, s, vt = np.linalg.svd(_centred(embeddings), full_matrices=False)
    largest = np.take_along_axis(vt, np.abs(vt).argmax(1)[:, None], axis=1)[:, 0]
    coordinates = u * s * np.sign(largest)
    ratio = np.square(s) / (np.square(s).sum() or 1.0)
    return coordinates[:, :components], ratio[:components]


def singular_values(embeddings: jax.Array) -> np.ndarray:
    """Returns the spectrum of the centred embeddings, which shows how many dimensions are used.

    Args:
      embeddings: float [N,D].

    Returns:
      float64 [min(N,D)], descending, divided by the first; zeros where all embeddings are equal.

    Raises:
      UserError: on another shape or values that are not finite.
    """
    embeddings = _checked(embeddings)
    s = np.linalg.svd(_centred(embeddings), compute_uv=False)
    return s / (s[0] or 1.0)


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
