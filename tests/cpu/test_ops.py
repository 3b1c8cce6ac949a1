"""The CPU forms compute the values and gradients of plain JAX."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import distributed
from amdjax.cpu import kernels, ops

BATCH = 19  # the C++ kernel divides it into 16 parts, which are not equal
SAME = ((1, 1), (1, 1))
# size, channels, features, kernel, stride, padding
CASES = [
    (8, 3, 16, 3, 1, SAME),
    (8, 16, 32, 3, 2, SAME),
    (7, 4, 5, 3, 2, SAME),
    (8, 4, 6, 1, 1, ((0, 0), (0, 0))),
    (9, 4, 6, 1, 2, ((0, 0), (0, 0))),
    (6, 4, 3, 3, 1, "VALID"),
    (8, 2, 3, 7, 2, ((3, 3), (3, 3))),
    (1, 4, 3, 3, 1, "SAME"),
    (9, 3, 48, 3, 1, ((2, 0), (0, 1))),
    (9, 5, 16, 5, 3, ((2, 2), (1, 2))),
    (8, 16, 32, 1, 2, ((0, 0), (0, 0))),
    (7, 20, 16, 2, 2, "VALID"),
    (16, 3, 64, 7, 2, "SAME"),
    (8, 16, 32, 1, 3, SAME),  # rows and columns of the output that read padding alone
    (9, 4, 6, 1, 3, SAME),
]
Arrays = tuple[np.ndarray, ...]


@pytest.fixture(params=["C++", "XLA"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the C++ kernels, and with the forms for hosts without a compiler."""
    if request.param == "XLA":
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip("no C++ compiler was found")
    return request.param


def _plain(x, kernel, strides, padding, **settings):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def _arrays(size: int, channels: int, features: int, kernel: int, dtype=np.float32) -> Arrays:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(BATCH, size, size, channels)).astype(dtype),
        rng.normal(size=(kernel, kernel, channels, features)).astype(dtype),
    )


def _wave(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Returns a cotangent whose entries differ."""
    return np.sin(np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


def _value_and_gradients(function: Callable, *arguments: np.ndarray) -> list[np.ndarray]:
    """Returns the value of a function and its gradients, in a single compiled program."""

    def compute(*arguments):
        value, pullback = jax.vjp(function, *arguments)
        return value, pullback(jax.tree.map(_wave, jax.eval_shape(function, *arguments)))

    return jax.tree.leaves(jax.jit(compute)(*arguments))


def _assert_close(ours: list, theirs: list, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@functools.cache
def _plain_convolution(case: tuple) -> list[np.ndarray]:
    *sizes, stride, padding = case
    return _value_and_gradients(
        lambda x, k: _plain(x, k, (stride, stride), padding), *_arrays(*sizes)
    )


@pytest.mark.parametrize("case", CASES)
def test_convolve_has_the_value_and_gradients_of_plain_jax(case: tuple, implementation: str):
    *sizes, stride, padding = case
    ours = _value_and_gradients(
        lambda x, k: ops.convolve(x, k, (stride, stride), padding), *_arrays(*sizes)
    )
    _assert_close(ours, _plain_convolution(case))


def test_convolve_under_the_compiler_options_of_steps_differs_in_rounding_only(implementation: str):
    arrays = _arrays(8, 16, 16, 3)
    mesh = distributed.make_mesh(jax.devices()[:1])

    def gradients(x, kernel):
        return _value_and_gradients(lambda x, k: ops.convolve(x, k, (1, 1), SAME), x, kernel)

    mapped = distributed.shard_step(gradients, mesh, batch_argument=0)
    _assert_close(mapped(*arrays), gradients(*arrays))


def test_convolve_with_groups_is_plain_jax():
    x, kernel = _arrays(8, 4, 4, 3)
    depthwise = kernel[:, :, :1]
    layout = ("NHWC", "HWIO", "NHWC")
    ours = ops.convolve(
        x, depthwise, (1, 1), "SAME", feature_group_count=4, dimension_numbers=layout
    )
    theirs = _plain(x, depthwise, (1, 1), "SAME", feature_group_count=4)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_convolve_of_bfloat16_has_bfloat16_gradients_near_float32():
    narrow = _value_and_gradients(
        lambda x, k: ops.convolve(x, k, (1, 1), "SAME"), *_arrays(8, 4, 4, 3, jnp.bfloat16)
    )
    wide = _value_and_gradients(lambda x, k: _plain(x, k, (1, 1), "SAME"), *_arrays(8, 4, 4, 3))
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == jnp.bfloat16
        difference = np.linalg.norm(one.astype(np.float32) - other)
        assert difference < 0.02 * np.linalg.norm(other)


def test_convolve_is_vectorised_over_networks(implementation: str):
    """Large images, of which the C++ kernel sums one at a time, and a kernel for each network."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 1, 40, 40, 48)).astype(np.float32)
    kernel = rng.normal(size=(2, 3, 3, 48, 32)).astype(np.float32)

    def gradients(function):
        def gradient(x, kernel):
            return jax.grad(lambda k: jnp.sum(jnp.sin(function(x, k, (1, 1), "SAME"))))(kernel)

        return gradient

    ours = jax.jit(jax.vmap(gradients(ops.convolve)))(x, kernel)
    plain = jax.jit(gradients(_plain))
    theirs = [plain(*network) for network in zip(x, kernel, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 3), (6, 4, 4, 16), (1, 2, 48), (200, 32)])
def test_moments_and_affine_have_the_values_and_gradients_of_plain_jax(
    shape: tuple[int, ...], implementation: str
):
    rng = np.random.default_rng(0)
    x, factor, offset = (
        rng.normal(size=size).astype(np.float32) for size in (shape, shape[-1:], shape[-1:])
    )
    axes = tuple(range(len(shape) - 1))
    _assert_close(
        _value_and_gradients(ops.moments, x),
        _value_and_gradients(lambda x: (jnp.sum(x, axes), jnp.sum(jnp.square(x), axes)), x),
        atol=1e-5,
    )
    _assert_close(
        _value_and_gradients(ops.affine, x, factor, offset),
        _value_and_gradients(lambda x, factor, offset: x * factor + offset, x, factor, offset),
        atol=1e-5,
    )


def test_affine_of_bfloat16_is_float32_with_a_gradient_in_bfloat16(implementation: str):
    x = np.ones((4, 2, 2, 16), jnp.bfloat16)
    ones = np.ones(16, np.float32)
    value, grad_x, grad_factor, grad_offset = jax.eval_shape(
        functools.partial(_value_and_gradients, ops.affine), x, ones, ones
    )
    assert (value.dtype, grad_x.dtype) == (jnp.float32, jnp.bfloat16)
    assert grad_factor.dtype == grad_offset.dtype == jnp.float32


def test_moments_are_exact_where_a_single_running_sum_is_not(implementation: str):
    x = np.full((128, 32, 32, 16), 0.1, np.float32)
    total, squares = jax.jit(lambda x: ops.moments(x))(x)  # not in the cache of another test
    np.testing.assert_allclose(total, x.sum((0, 1, 2), np.float64), rtol=2e-6)
    np.testing.assert_allclose(squares, np.square(x, dtype=np.float64).sum((0, 1, 2)), rtol=2e-6)


@pytest.mark.parametrize("channels", [1, 6, 7, 16, 48])
def test_sum_of_squares_has_the_value_and_gradient_of_plain_jax(channels: int):
    x = np.random.default_rng(0).normal(size=(3, 4, channels)).astype(np.float32)
    _assert_close(
        _value_and_gradients(ops.sum_of_squares, x),
        _value_and_gradients(lambda x: jnp.sum(jnp.square(x), axis=-1), x),
        rtol=1e-6,
        atol=0,
    )


def test_materialize_is_the_identity():
    tree = {"a": np.arange(3.0, dtype=np.float32)}
    value, gradient = _value_and_gradients(ops.materialize, tree)
    np.testing.assert_array_equal(value, tree["a"])
    np.testing.assert_allclose(gradient, np.sin(np.arange(3.0)), rtol=1e-6)


def test_convolve_gradient_is_deterministic():
    x, kernel = _arrays(16, 16, 16, 3)
    function = jax.jit(jax.grad(lambda k: jnp.sum(ops.convolve(x, k, (1, 1), "SAME") ** 2)))
    first = function(kernel)
    for _ in range(20):
        np.testing.assert_array_equal(function(kernel), first)


def test_convolve_with_a_dilation_is_the_plain_convolution():
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 8, 8, 3), (3, 3, 3, 4))
    )
    settings = {"lhs_dilation": (1, 1), "rhs_dilation": (2, 2)}
    layout = ("NHWC", "HWIO", "NHWC")
    dilated = ops.convolve(x, kernel, (1, 1), "VALID", dimension_numbers=layout, **settings)
    assert dilated.shape == (2, 4, 4, 4)
    np.testing.assert_allclose(
        dilated, _plain(x, kernel, (1, 1), ((0, 0), (0, 0)), **settings), rtol=1e-5, atol=1e-5
    )
