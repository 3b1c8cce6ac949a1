import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from amdjax.analysis import pca, tsne
from amdjax.errors import UserError


def _blobs(
    spread: float, classes: int = 4, per_class: int = 30, dimension: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centers = 10.0 * np.eye(classes, dimension)
    embeddings = centers[labels] + spread * rng.normal(size=(labels.size, dimension))
    return embeddings.astype(np.float32), labels


def test_pca_singular_values_are_roots_of_the_covariance_spectrum():
    embeddings, _ = _blobs(2.0)
    values = pca(embeddings).singular_values
    spectrum = np.linalg.eigvalsh(np.cov(embeddings.astype(np.float64).T))[::-1]
    np.testing.assert_allclose(values, np.sqrt(spectrum / spectrum[0]), rtol=1e-6)
    np.testing.assert_allclose(pca(7.0 * embeddings + 3.0).singular_values, values, rtol=1e-4)


def test_pca_singular_values_show_the_rank():
    rng = np.random.default_rng(0)
    values = pca(rng.normal(size=(50, 2)) @ rng.normal(size=(2, 8))).singular_values
    assert values.shape == (8,)
    assert values[1] > 0.1
    np.testing.assert_allclose(values[2:], 0.0, atol=1e-12)


def test_pca_of_equal_embeddings_is_zero():
    equal = np.full((7, 3), 0.1, np.float32)
    for part in pca(equal):
        np.testing.assert_array_equal(part, 0.0)


def test_pca_coordinates_have_the_explained_variance_and_a_fixed_sign():
    embeddings, _ = _blobs(2.0)
    coordinates, explained, _ = pca(embeddings, 3)
    total = embeddings.astype(np.float64).var(0, ddof=1).sum()
    np.testing.assert_allclose(coordinates.var(0, ddof=1) / total, explained, rtol=1e-8)
    np.testing.assert_allclose(pca(embeddings, 6).explained.sum(), 1.0, rtol=1e-12)
    axes = np.linalg.lstsq(coordinates, embeddings - embeddings.mean(0), rcond=None)[0]
    assert (axes[np.arange(3), np.abs(axes).argmax(1)] > 0).all()


def test_pca_is_permutation_equivariant():
    embeddings, labels = _blobs(3.0)
    order = np.random.default_rng(1).permutation(labels.size)
    coordinates, ratio, values = pca(embeddings)
    permuted, permuted_ratio, permuted_values = pca(embeddings[order])
    np.testing.assert_allclose(permuted, coordinates[order], atol=1e-8)
    np.testing.assert_allclose(permuted_ratio, ratio, rtol=1e-8)
    np.testing.assert_allclose(permuted_values, values)


def test_tsne_preserves_neighbours_and_is_deterministic():
    embeddings, labels = _blobs(0.5, per_class=15)
    layout = tsne(embeddings, seed=0)
    assert layout.shape == (60, 2)
    assert layout.dtype == np.float32
    assert trustworthiness(embeddings, layout, n_neighbors=5) > 0.9
    nearest = np.linalg.norm(layout[:, None] - layout, axis=-1) + np.diag(np.full(60, np.inf))
    np.testing.assert_array_equal(labels[nearest.argmin(1)], labels)
    np.testing.assert_array_equal(tsne(embeddings, seed=0), layout)


@pytest.mark.parametrize("count", [4, 12])
def test_tsne_of_few_examples_is_finite(count):
    layout = tsne(np.random.default_rng(0).normal(size=(count, 3)), seed=0)
    assert layout.shape == (count, 2)
    assert np.isfinite(layout).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: tsne(x[:3], 0), "at least 4"),
        (lambda x: tsne(x[:, :1], 0), "dimension 2"),
        (lambda x: tsne(np.ones_like(x), 0), "all embeddings are equal"),
        (lambda x: pca(x, 4), r"4 principal components of .* \[10, 3\], which have 3"),
        (lambda x: pca(x[0]), r"expected embeddings \[N,D\]"),
        (lambda x: pca(x / 0.0), "NaN or Inf"),
    ],
)
def test_embedding_rejects_bad_input(call, message):
    embeddings = np.random.default_rng(0).normal(size=(10, 3))
    with np.errstate(divide="ignore"), pytest.raises(UserError, match=message):
        call(embeddings)
