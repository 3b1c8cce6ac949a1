"""The work-arounds are switched off by a variable or a context, which leaves plain JAX."""

import subprocess
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import cpu
from amdjax.cpu import kernels
from amdjax.losses import am_loss, at_loss, ft_loss
from amdjax.models import create_model
from amdjax.models.layers import BatchNorm, conv

OURS = ("amdjax_kernel_gradient", "amdjax_channel_sums")
FAMILIES = ("wrn_10_1", "resnet8", "vgg8", "mobilenet_v2", "shufflenet_v2", "amc_net")


class Network(nn.Module):
    """Features from all the layers with a form for CPU."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv(16, 3, dtype=jnp.float32, name="conv1")(x)
        return nn.tanh(BatchNorm(train=True, name="bn1")(x))


def _loss() -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Returns a distillation loss of the kernel of a network, and the kernel."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 6, 6, 3)).astype(np.float32)
    teacher = rng.normal(size=(4, 6, 6, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 16)).astype(np.float32)

    def loss(kernel: jax.Array) -> jax.Array:
        params = {
            "conv1": {"kernel": kernel},
            "bn1": {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)},
        }
        statistics = {"bn1": {"mean": np.zeros(16, np.float32), "var": np.ones(16, np.float32)}}
        student, _ = Network().apply(
            {"params": params, "batch_stats": statistics}, images, mutable=["batch_stats"]
        )
        losses = (
            am_loss(student, teacher),
            at_loss(student, teacher),
            ft_loss(student, teacher),
        )
        return sum(jnp.mean(loss) for loss in losses)

    return loss, kernel


def test_enabled_follows_the_variable_the_context_and_the_backend(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AMDJAX_CPU_KERNELS", raising=False)
    assert cpu.workarounds_enabled()
    with cpu.workarounds_disabled():
        assert not cpu.workarounds_enabled()
    assert cpu.workarounds_enabled()
    monkeypatch.setenv("AMDJAX_CPU_KERNELS", "0")
    assert not cpu.workarounds_enabled()
    monkeypatch.setenv("AMDJAX_CPU_KERNELS", "1")
    assert cpu.workarounds_enabled()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not cpu.workarounds_enabled()


def test_disabled_is_part_of_the_key_of_compiled_functions():
    traced = []

    @jax.jit
    def function(x: jax.Array) -> jax.Array:
        traced.append(cpu.workarounds_enabled())
        return x

    for _ in range(2):
        function(1.0)
        with cpu.workarounds_disabled():
            function(1.0)
    assert traced == [True, False]


def test_variable_leaves_plain_jax_and_never_compiles_the_kernels(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail():
        raise AssertionError("the kernels are not to be compiled")

    monkeypatch.setattr(kernels, "available", fail)
    loss, kernel = _loss()
    with pytest.raises(AssertionError, match="not to be compiled"):
        jax.eval_shape(jax.grad(loss), kernel)
    monkeypatch.setenv("AMDJAX_CPU_KERNELS", "0")
    jax.eval_shape(jax.grad(loss), kernel)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_disabled_lowers_plain_programs_for_accelerators(platform: str):
    loss, kernel = _loss()
    with cpu.workarounds_disabled():
        program = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])(kernel)
    text = program.mlir_module()
    assert "custom_call" not in text
    assert "optimization_barrier" not in text


def test_enabled_lowers_the_kernels_and_the_barrier_for_cpu():
    if not kernels.available():
        pytest.skip("no C++ compiler was found")
    loss, kernel = _loss()
    text = jax.jit(jax.grad(loss)).lower(kernel).as_text()
    assert all(name in text for name in OURS)
    assert "optimization_barrier" in text


def test_derivatives_of_plain_jax_are_those_of_the_work_arounds():
    """And jvp, linearize and forward over reverse work, which the work-arounds do not support."""
    loss, kernel = _loss()
    direction = np.cos(np.arange(kernel.size, dtype=np.float32)).reshape(kernel.shape)
    gradient = jax.jit(jax.grad(loss))(kernel)

    @jax.jit
    def plain(kernel: jax.Array, direction: jax.Array) -> tuple[jax.Array, ...]:
        _, forward = jax.jvp(loss, (kernel,), (direction,))
        _, linear = jax.linearize(loss, kernel)
        reverse, second = jax.jvp(jax.grad(loss), (kernel,), (direction,))
        other = jax.grad(lambda k: jnp.vdot(jax.grad(loss)(k), direction))(kernel)
        return forward, linear(direction), reverse, second, other

    with cpu.workarounds_disabled():
        forward, linear, reverse, second, other = plain(kernel, direction)
    np.testing.assert_allclose(reverse, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())
    np.testing.assert_allclose(forward, np.vdot(gradient, direction), rtol=1e-3)
    np.testing.assert_allclose(linear, forward, rtol=1e-5)
    np.testing.assert_allclose(second, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_over_reverse_of_every_family_is_traced(name: str):
    model = create_model(name, 4)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def second_derivative(images: jax.Array) -> jax.Array:
        variables = model.init(jax.random.key(0), images)

        def loss(params):
            outputs, _ = model.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            return jnp.sum(jnp.square(outputs.logits))

        return jax.jvp(jax.grad(loss), (variables["params"],), (variables["params"],))[1]

    with cpu.workarounds_disabled():
        shapes = jax.eval_shape(second_derivative, images)
    assert shapes["fc"]["kernel"].shape[1] == 4


def test_import_does_not_start_the_backends():
    code = (
        "import jax, amdjax.losses, amdjax.models\n"
        "jax.config.update('jax_num_cpu_devices', 2)"  # an error once they have started
    )
    subprocess.run([sys.executable, "-c", code], check=True)
