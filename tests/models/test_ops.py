import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import parallel
from amdjax.models.ops import channel_sum, convolve, per_channel

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
]


def _plain(x, kernel, strides, padding, **settings):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def _arrays(size, channels, features, kernel, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(4, size, size, channels)), dtype),
        jnp.asarray(rng.normal(size=(kernel, kernel, channels, features)), dtype),
    )


def _value_and_gradients(function, x, kernel, options=None):
    out, pullback = jax.vjp(jax.jit(function, compiler_options=options), x, kernel)
    return out, *pullback(jnp.sin(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))


@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_gradients_are_those_of_xla(case):
    size, channels, features, kernel, stride, padding = case
    arrays = _arrays(size, channels, features, kernel)
    ours, theirs = (
        _value_and_gradients(lambda x, k, f=f: f(x, k, (stride, stride), padding), *arrays)
        for f in (convolve, _plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_compiler_options_of_steps_change_rounding_alone():
    x, kernel = _arrays(8, 16, 16, 3)
    mesh = parallel.make_mesh(jax.devices()[:1])

    def gradients(x, kernel):
        return _value_and_gradients(
            lambda x, k: convolve(x, k, (1, 1), ((1, 1), (1, 1))), x, kernel
        )

    mapped = parallel.map_step(gradients, mesh, batch_argument=0)
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


@pytest.mark.parametrize("shape", [(5, 3), (6, 4, 4, 8), (1, 2, 3)])
def test_channel_sum_and_per_channel_are_each_others_gradient(shape):
    rng = np.random.default_rng(0)
    x, values = rng.normal(size=shape), rng.normal(size=shape[-1:])
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(channel_sum(jnp.float32(x)), x.sum(axes), rtol=1e-4, atol=1e-5)
    repeated, pullback = jax.vjp(lambda v: per_channel(v, shape), jnp.float32(values))
    np.testing.assert_array_equal(repeated, np.broadcast_to(np.float32(values), shape))
    np.testing.assert_allclose(pullback(jnp.float32(x))[0], x.sum(axes), rtol=1e-4, atol=1e-5)
    _, pullback = jax.vjp(channel_sum, jnp.float32(x))
    np.testing.assert_array_equal(pullback(jnp.float32(values))[0], repeated)


def test_channel_sum_is_exact_where_one_long_sum_would_not_be():
    x = np.full((128, 32, 32, 2), 0.1, np.float32)
    np.testing.assert_allclose(channel_sum(jnp.asarray(x)), x.sum((0, 1, 2), np.float64), rtol=2e-6)


@pytest.mark.parametrize(("platform", "reshaped"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_accelerators_get_the_plain_forms(platform, reshaped):
    def gradient(x, kernel):
        return jax.grad(lambda k: channel_sum(convolve(x, k, (1, 1), "SAME")).sum())(kernel)

    program = jax.export.export(jax.jit(gradient), platforms=[platform])(*_arrays(8, 4, 4, 3))
    text = program.mlir_module()
    assert ("optimization_barrier" in text) == reshaped
    assert text.count("stablehlo.convolution") == 1
