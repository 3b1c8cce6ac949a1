import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import distributed
from amdjax.cpu import kernels
from amdjax.cpu.ops import affine, convolve, moments

BATCH = 19  # more than the parts in which it is summed, and no multiple
# size, channels, features, kernel, stride, padding
CASES = [
    (8, 3, 16, 3, 1, ((1, 1), (1, 1))),
    (8, 16, 32, 3, 2, ((1, 1), (1, 1))),
    (7, 4, 5, 3, 2, ((1, 1), (1, 1))),
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
]


@pytest.fixture(params=["C++", "XLA"])
def computed_by(request, monkeypatch):
    """Both ways of computing on CPU."""
    if request.param == "XLA":
        monkeypatch.setattr(kernels, "available", lambda: False)
    elif not kernels.available():
        pytest.skip("no C++ compiler is found")
    jax.clear_caches()  # a traced operation remembers how it is computed
    return request.param


def _plain(x, kernel, strides, padding, **settings):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def _arrays(size, channels, features, kernel, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(BATCH, size, size, channels)), dtype),
        jnp.asarray(rng.normal(size=(kernel, kernel, channels, features)), dtype),
    )


def _value_and_gradients(function, x, kernel, options=None):
    out, pullback = jax.vjp(jax.jit(function, compiler_options=options), x, kernel)
    return out, *pullback(jnp.sin(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))


@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_gradients_are_those_of_xla(case, computed_by):
    size, channels, features, kernel, stride, padding = case
    arrays = _arrays(size, channels, features, kernel)
    ours, theirs = (
        _value_and_gradients(lambda x, k, f=f: f(x, k, (stride, stride), padding), *arrays)
        for f in (convolve, _plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_compiler_options_of_steps_change_rounding_alone(computed_by):
    x, kernel = _arrays(8, 16, 16, 3)
    mesh = distributed.make_mesh(jax.devices()[:1])

    def gradients(x, kernel):
        return _value_and_gradients(
            lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1))), x, kernel
        )

    mapped = distributed.shard_step(gradients, mesh, batch_argument=0)
    for one, other in zip(mapped(x, kernel), gradients(x, kernel), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_groups_bfloat16_and_many_networks_at_once():
    x, kernel = _arrays(8, 4, 4, 3)
    depthwise = kernel[:, :, :1]
    np.testing.assert_allclose(
        convolve(
            x,
            depthwise,
            (1, 1),
            "SAME",
            feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        _plain(x, depthwise, (1, 1), "SAME", feature_group_count=4),
        rtol=1e-6,
    )
    narrow = _value_and_gradients(
        lambda x, k: convolve(x, k, (1, 1), "SAME"), *_arrays(8, 4, 4, 3, jnp.bfloat16)
    )
    wide = _value_and_gradients(lambda x, k: _plain(x, k, (1, 1), "SAME"), x, kernel)
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == jnp.bfloat16
        difference = np.linalg.norm(one.astype(jnp.float32) - other)
        assert difference < 0.02 * np.linalg.norm(other)

    def gradient(kernel):
        return jax.grad(lambda k: jnp.sum(convolve(x, k, (1, 1), "SAME") ** 2))(kernel)

    kernels = jnp.stack([kernel, 2 * kernel])
    np.testing.assert_allclose(
        jax.vmap(gradient)(kernels), jnp.stack([gradient(k) for k in kernels]), rtol=1e-4, atol=1e-3
    )


def test_few_and_large_images_and_many_networks_at_once(computed_by):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 1, 40, 40, 48)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 3, 3, 48, 32)), jnp.float32)

    def gradient(function, x, kernel):
        return jax.grad(lambda k: jnp.sum(jnp.sin(function(x, k, (1, 1), "SAME"))))(kernel)

    ours = jax.vmap(lambda x, k: gradient(convolve, x, k))(x, kernels)
    for one, image, kernel in zip(ours, x, kernels, strict=True):
        np.testing.assert_allclose(one, gradient(_plain, image, kernel), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(5, 3), (6, 4, 4, 16), (1, 2, 48), (200, 32)])
def test_moments_and_affine_and_their_gradients_are_those_of_their_formulas(shape, computed_by):
    rng = np.random.default_rng(0)
    x, values, more = (
        jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, shape[-1:], shape[-1:])
    )
    axes = tuple(range(len(shape) - 1))

    def plain_moments(x):
        return jnp.sum(x, axes), jnp.sum(jnp.square(x), axes)

    def compare(ours, theirs, *arguments):
        (one, pull), (other, pull_other) = (jax.vjp(f, *arguments) for f in (ours, theirs))
        grads = jax.tree.map(lambda y: jnp.sin(jnp.arange(y.size)).reshape(y.shape), other)
        for a, b in zip(
            jax.tree.leaves((one, pull(grads))),
            jax.tree.leaves((other, pull_other(grads))),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    compare(moments, plain_moments, x)
    compare(affine, lambda x, factor, offset: x * factor + offset, x, values, more)


def test_affine_of_bfloat16_is_float32_with_a_gradient_in_bfloat16(computed_by):
    x = jnp.ones((4, 2, 2, 16), jnp.bfloat16)
    ones = jnp.ones(16)
    out, pullback = jax.vjp(affine, x, ones, ones)
    of_x, of_factor, of_offset = pullback(out)
    assert (out.dtype, of_x.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(of_factor, 32 * ones)
    np.testing.assert_array_equal(of_offset, 32 * ones)


def test_sums_are_exact_where_one_long_sum_would_not_be(computed_by):
    x = np.full((128, 32, 32, 16), 0.1, np.float32)
    total, squares = moments(jnp.asarray(x))
    np.testing.assert_allclose(total, x.sum((0, 1, 2), np.float64), rtol=2e-6)
    np.testing.assert_allclose(squares, np.square(x, dtype=np.float64).sum((0, 1, 2)), rtol=2e-6)


def test_the_same_arrays_give_the_same_bits():
    x, kernel = _arrays(16, 16, 16, 3)
    function = jax.jit(jax.grad(lambda k: jnp.sum(convolve(x, k, (1, 1), "SAME") ** 2)))
    first = function(kernel)
    for _ in range(20):
        np.testing.assert_array_equal(function(kernel), first)


def test_without_a_compiler_xla_computes(monkeypatch):
    find = kernels.available.__wrapped__
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not find()  # and nothing is said: nothing is wrong
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(UserWarning, match=r"kernels.cc cannot be compiled, training on CPU is slow"):
        assert not find()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_the_plain_forms(platform, computed_by):
    def gradient(x, kernel):
        return jax.value_and_grad(lambda k: moments(convolve(x, k, (1, 1), "SAME"))[1].sum())(
            kernel
        )

    ours = ("amdjax_kernel_gradient", "amdjax_channel_sums")
    program = jax.export.export(
        jax.jit(gradient),
        platforms=[platform],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(name) for name in ours],
    )(*_arrays(8, 16, 16, 3))
    text = program.mlir_module()
    found = (
        [name for name in ours if name in text],
        "optimization_barrier" in text,
        text.count("stablehlo.convolution"),
    )
    on_cpu = {"C++": (list(ours), False, 1), "XLA": ([], True, 2)}[computed_by]
    assert found == (on_cpu if platform == "cpu" else ([], False, 2))
