"""Optimisers and schedules against values of PyTorch 2.14, optax's or the formulas by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.training.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    register_optimizer,
)


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adam", [0.9, -1.9]), ("adamw", [0.95, -1.9])],  # the sign of the decay, or the decay itself
)
def test_adam_has_the_weight_decay_in_the_gradient_and_adamw_outside(name, expected):
    optim = _optim(name=name, weight_decay=0.5, boundaries=(), decay_norms_and_biases=False)
    params = {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.ones(1)}
    zero = {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(1)}
    ours = _run(create_optimizer(optim, 1, 1), params, [zero])
    np.testing.assert_allclose(ours["kernel"], [expected], rtol=1e-5)
    np.testing.assert_array_equal(ours["bias"], 1.0)


def test_adam_without_ramps_equals_that_of_optax():
    optim = _optim(name="adam", weight_decay=0.0, boundaries=(), learning_rate=0.003)
    params = {"kernel": jnp.ones((2, 2))}
    gradients = [{"kernel": jnp.asarray([[g, 1.0], [-g, g * g]])} for g in (0.3, -1.0, 2.0)]
    ours = _run(create_optimizer(optim, 1, 10), params, gradients)
    theirs = _run(optax.adam(0.003), params, gradients)
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-6)


@pytest.mark.parametrize(("end", "beta2"), [(0.5, 0.999), (0.2, 0.9)])
def test_adam_beta1_falls_during_the_ramp_down(end, beta2):
    optim = _optim(
        name="adam", weight_decay=0.0, boundaries=(), ramp_down_epochs=4.0, learning_rate=1.0
    )
    optim.beta1_end, optim.beta2 = end, beta2
    params = {"kernel": jnp.zeros((1, 1))}
    gradients = [{"kernel": jnp.full((1, 1), g)} for g in (1.0, 2.0, -1.0, 0.5)]
    ours = _run(create_optimizer(optim, 1, 4), params, gradients)
    value, m, v = 0.0, 0.0, 0.0
    for epoch, gradient in enumerate(gradients):
        g = float(gradient["kernel"][0, 0])
        down = np.exp(-((0.5 * epoch) ** 2) / 4)
        beta1 = down * 0.9 + (1 - down) * end
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        corrected = v / (1 - beta2 ** (epoch + 1))
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


@pytest.mark.parametrize("steps_per_epoch", [97, 99, 390, 391])
def test_compiled_learning_rate_changes_at_the_first_step_of_an_epoch(steps_per_epoch):
    # Floating-point division in a compiled program gives 63 epochs after 64 epochs of 97 steps.
    optim = _optim(boundaries=tuple(range(1, 200)), factor=0.99, learning_rate=1.0)
    steps = jnp.arange(200 * steps_per_epoch)
    rates = jax.jit(jax.vmap(learning_rate_schedule(optim, steps_per_epoch, epochs=200)))(steps)
    changes = 1 + np.flatnonzero(np.diff(rates))
    np.testing.assert_array_equal(changes, steps_per_epoch * np.arange(1, 200))


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


# Parameters after three steps from (1, -2) with the gradients (0.3, -1.2), (-1, 0.4), (2, -0.1).
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
            [
                (0.9890000224, -1.988000035),
                (0.9932143688, -1.982009888),
                (0.9884180427, -1.976439953),
            ],
        ),
        (
            {"nesterov": True, "weight_decay": 0.01},
            [
                (0.9411000013, -1.76820004),
                (1.104201913, -1.742020488),
                (0.7797425985, -1.661740422),
            ],
        ),
        (  # all but the last gradient are clipped
            {"clip_norm": 1.1, "weight_decay": 0.01},
            [(0.9723210931, -1.891284347), (1.04643774, -1.831549048), (1.002233624, -1.770462632)],
        ),
    ],
    ids=["adamw", "nesterov", "clip_norm"],
)
def test_optimizer_equals_that_of_pytorch(settings, expected):
    optimizer = create_optimizer(_optim(boundaries=(), **settings), 1, 10)
    gradients = [{"kernel": jnp.asarray(g)} for g in ((0.3, -1.2), (-1.0, 0.4), (2.0, -0.1))]
    for steps in (1, 2, 3):
        ours = _run(optimizer, {"kernel": jnp.asarray((1.0, -2.0))}, gradients[:steps])
        np.testing.assert_allclose(ours["kernel"], expected[steps - 1], rtol=2e-6)


def test_adamw_decays_kernels_only_where_so_configured():
    optim = _optim(name="adamw", weight_decay=0.5, decay_norms_and_biases=False, boundaries=())
    params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
    zero = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    ours = _run(create_optimizer(optim, 1, 1), params, [zero])
    np.testing.assert_allclose(ours["kernel"], 1 - 0.1 * 0.5)
    np.testing.assert_array_equal(ours["bias"], 1.0)


def test_clip_norm_is_of_all_parameters_together():
    optim = _optim(clip_norm=1.0, weight_decay=0.0, boundaries=(), learning_rate=1.0)
    params = {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}
    gradient = {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.full(1, 4.0)}
    ours = _run(create_optimizer(optim, 1, 1), params, [gradient])
    np.testing.assert_allclose(ours["kernel"], -0.6, rtol=1e-6)
    np.testing.assert_allclose(ours["bias"], -0.8, rtol=1e-6)


def test_cosine_schedule_equals_that_of_pytorch():
    optim = _optim(schedule="cosine", learning_rate=0.2, end_learning_rate=0.01)
    schedule = learning_rate_schedule(optim, steps_per_epoch=5, epochs=2)
    expected = [0.2, 0.1953503690, 0.1818566145, 0.1608395990, 0.1343566145, 0.105, 0.07564338553]
    expected += [0.04916040103, 0.02814338553, 0.01464963095]
    ours = [float(schedule(jnp.asarray(step))) for step in range(10)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_warmup_before_a_cosine_equals_that_of_pytorch():
    # LinearLR(start_factor=1/4, total_iters=3), then CosineAnnealingLR(8) from step 4 on.
    optim = _optim(schedule="cosine", learning_rate=0.2, end_learning_rate=0.01, warmup_epochs=1.0)
    schedule = learning_rate_schedule(optim, steps_per_epoch=4, epochs=3)
    expected = [0.05, 0.1, 0.15, 0.2, 0.2, 0.1927685556, 0.1721751442, 0.1413549261, 0.105]
    expected += [0.06864507393, 0.03782485579, 0.01723144441]
    ours = [float(schedule(jnp.asarray(step))) for step in range(12)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_linear_schedule_and_warmup_equal_those_of_optax():
    optim = _optim(schedule="linear", learning_rate=0.3, end_learning_rate=0.1, warmup_epochs=0.5)
    schedule = learning_rate_schedule(optim, steps_per_epoch=10, epochs=4)
    theirs = optax.join_schedules(
        [optax.linear_schedule(0.06, 0.3, 4), optax.linear_schedule(0.3, 0.1, 35)], [5]
    )
    for step in (0, 3, 4, 5, 20, 39, 40, 100):
        np.testing.assert_allclose(schedule(jnp.asarray(step)), theirs(step), rtol=1e-5)


def test_warmup_leaves_the_boundaries_of_a_step_schedule():
    optim = _optim(boundaries=(2, 3), factor=0.1, learning_rate=1.0, warmup_epochs=2.5)
    schedule = learning_rate_schedule(optim, steps_per_epoch=4, epochs=4)
    ours = [float(schedule(jnp.asarray(step))) for step in (0, 7, 8, 9, 11, 12)]
    np.testing.assert_allclose(ours, [0.1, 0.8, 0.09, 0.1, 0.1, 0.01], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, r"unknown config\.optim\.schedule 'cosin'; did you mean cosine"),
        ({"warmup_epochs": 10}, r"warmup_epochs=10\.0 must be below config\.epochs=10"),
        ({"nesterov": True, "momentum": 0.0}, r"nesterov needs config\.optim\.momentum above 0"),
        ({"nesterov": True, "name": "adamw"}, "nesterov is a setting of sgd, not of adamw"),
        ({"name": "adamv"}, "unknown config.optim.name 'adamv'; did you mean adam"),
    ],
)
def test_create_optimizer_refuses_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        create_optimizer(_optim(**settings), 1, 10)


def test_register_optimizer_adds_one_by_name():
    @register_optimizer("sign", "the sign of the gradient")
    def sign(inputs):
        return optax.chain(
            optax.scale_by_sign(), optax.scale_by_learning_rate(inputs.learning_rate)
        )

    optimizer = create_optimizer(_optim(name="sign", boundaries=()), 1, 1)
    ours = _run(optimizer, {"kernel": jnp.zeros(2)}, [{"kernel": jnp.asarray([5.0, -0.1])}])
    np.testing.assert_allclose(ours["kernel"], [-0.1, 0.1], rtol=1e-6)
