"""Distillation with a curriculum of the temperature against the published values."""

import jax
import jax.numpy as jnp
import numpy as np

from amdjax import losses
from amdjax.losses.ctkd import CurriculumTemperature, gradient_reversal
from tests.losses.random_arrays import draw
from tests.reference_values import cases, load


def test_ctkd_loss_has_the_published_values_and_gradients():
    for case in cases("methods/ctkd"):
        arguments = {
            name: case[key].item()
            for name, key in (("reversal", "reversal"), ("start", "start"), ("span", "range"))
        }

        def mean(student, parameter, case=case, arguments=arguments):
            return jnp.mean(losses.ctkd_loss(student, case["teacher"], parameter, **arguments))

        value, (gradient, of_parameter) = jax.jit(jax.value_and_grad(mean, (0, 1)))(
            case["student"], case["parameter"].astype(np.float32)
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        atol = 1e-4 * np.abs(case["grad"]).max()
        np.testing.assert_allclose(gradient, case["grad"], rtol=0, atol=atol)
        np.testing.assert_allclose(of_parameter, case["grad_parameter"], rtol=1e-4, atol=1e-5)


def test_gradient_reversal_is_the_published_curriculum():
    arrays = load("methods/ctkd")
    reversal = gradient_reversal(arrays["epochs"].astype(np.float32))
    np.testing.assert_allclose(reversal, arrays["reversal_by_epoch"], atol=1e-6)


def test_curriculum_temperature_counts_epochs_from_one_and_ascends_the_loss():
    student, teacher = draw(2, 4, 5)
    module = CurriculumTemperature(ramp_epochs=4.0)
    variables = module.init(jax.random.key(0), student, teacher, jnp.zeros(()))

    def mean(params, epoch):
        return jnp.mean(module.apply({"params": params}, student, teacher, epoch))

    plain = jax.grad(lambda p: jnp.mean(losses.ctkd_loss(student, teacher, p, 1.0)))(1.0)
    for epoch, factor in ((0.0, (np.cos(np.pi / 4) - 1) / 2), (3.0, -1.0), (9.0, -1.0)):
        gradient = jax.grad(mean)(variables["params"], epoch)["temperature"]
        np.testing.assert_allclose(gradient, factor * plain, rtol=1e-4)


def test_curriculum_temperature_has_the_bounds_of_its_settings():
    student, teacher = draw(2, 4, 5)
    module = CurriculumTemperature(start=2.0, span=5.0)
    variables = module.init(jax.random.key(0), student, teacher, jnp.zeros(()))
    parameter = variables["params"]["temperature"]
    np.testing.assert_allclose(
        module.apply(variables, student, teacher, 0.0),
        losses.ctkd_loss(student, teacher, parameter, 0.0, start=2.0, span=5.0),
        rtol=1e-6,
    )
