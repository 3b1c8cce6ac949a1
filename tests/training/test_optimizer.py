"""Optimisers against the same steps by hand, schedules against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.training.optimizer import create_optimizer, learning_rate_schedule


def _optim(**changes):
    optim = default.get_config().optim
    optim.update(changes)
    return optim


def _run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_equals_that_of_pytorch():
    optim = _optim(learning_rate=0.1, boundaries=(1,), factor=0.2, weight_decay=0.01)
    params = {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.asarray([0.5])}
    gradients = [{"kernel": jnp.full((1, 2), g), "bias": jnp.asarray([g])} for g in (0.3, -1, 2.0)]
    ours = _run(create_optimizer(optim, steps_per_epoch=2, epochs=2), params, gradients)
    for name, value in params.items():
        value, momentum = np.asarray(value), 0.0
        for step, gradient in enumerate(gradients):
            momentum = 0.9 * momentum + np.asarray(gradient[name]) + 0.01 * value
            value = value - (0.1 if step < 2 else 0.02) * momentum
        np.testing.assert_allclose(ours[name], value, rtol=1e-6)


def test_weight_decay_of_kernels_only():
    optim = _optim(weight_decay=0.5, decay_norms_and_biases=False)
    params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
    zero = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    ours = _run(create_optimizer(optim, 1, 1), params, [zero])
    np.testing.assert_allclose(ours["kernel"], 1 - 0.1 * 0.5)
    np.testing.assert_array_equal(ours["bias"], 1.0)


def test_adam_without_ramps_equals_that_of_optax():
    optim = _optim(name="adam", weight_decay=0.0, boundaries=(), learning_rate=0.003)
    params = {"kernel": jnp.ones((2, 2))}
    gradients = [{"kernel": jnp.asarray([[g, 1.0], [-g, g * g]])} for g in (0.3, -1.0, 2.0)]
    ours = _run(create_optimizer(optim, 1, 10), params, gradients)
    theirs = _run(optax.adam(0.003), params, gradients)
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-6)


def test_adam_beta1_falls_during_the_ramp_down():
    optim = _optim(
        name="adam", weight_decay=0.0, boundaries=(), ramp_down_epochs=4.0, learning_rate=1.0
    )
    params = {"kernel": jnp.zeros((1, 1))}
    gradients = [{"kernel": jnp.full((1, 1), g)} for g in (1.0, 2.0, -1.0, 0.5)]
    ours = _run(create_optimizer(optim, 1, 4), params, gradients)
    value, m, v = 0.0, 0.0, 0.0
    for epoch, gradient in enumerate(gradients):
        g = float(gradient["kernel"][0, 0])
        down = np.exp(-((0.5 * epoch) ** 2) / 4)
        beta1 = down * 0.9 + (1 - down) * 0.5
        m, v = beta1 * m + (1 - beta1) * g, 0.999 * v + 0.001 * g * g
        corrected = v / (1 - 0.999 ** (epoch + 1))
        value -= down * m / (1 - beta1 ** (epoch + 1)) / (np.sqrt(corrected) + 1e-8)
    np.testing.assert_allclose(ours["kernel"], value, rtol=1e-4)


def test_learning_rate_of_the_cifar10_recipe():
    schedule = learning_rate_schedule(_optim(), steps_per_epoch=390, epochs=200)
    epochs = [0, 39, 40, 80, 120, 160, 199]
    expected = [0.1, 0.1, 0.02, 0.004, 0.0008, 0.00016, 0.00016]
    first = [float(schedule(jnp.asarray(390 * epoch))) for epoch in epochs]
    last = [float(schedule(jnp.asarray(390 * epoch + 389))) for epoch in epochs]
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    np.testing.assert_allclose(last, expected, rtol=1e-5)


def test_learning_rate_of_the_amc_recipe():
    optim = _optim(learning_rate=0.003, boundaries=(), ramp_up_epochs=50.0, ramp_down_epochs=30.0)
    schedule = learning_rate_schedule(optim, steps_per_epoch=10, epochs=200)
    for epoch, factor in [
        (0, np.exp(-5)),
        (25, np.exp(-5 * 0.25)),
        (50, 1.0),
        (170, 1.0),
        (190, np.exp(-(10.0**2) / 30)),
    ]:
        np.testing.assert_allclose(schedule(jnp.asarray(10 * epoch)), 0.003 * factor, rtol=1e-5)


@pytest.mark.parametrize("boundaries", [(80, 40), (40, 40)])
def test_learning_rate_refuses_boundaries_that_do_not_ascend(boundaries):
    with pytest.raises(UserError, match=r"boundaries must ascend, not \("):
        create_optimizer(_optim(boundaries=boundaries), 1, 1)
