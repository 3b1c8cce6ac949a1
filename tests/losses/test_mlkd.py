"""Multi-level logit distillation against the published values."""

import jax
import jax.numpy as jnp
import numpy as np

from amdjax import losses
from tests.losses.random_arrays import draw
from tests.reference_values import cases


def test_mlkd_loss_has_the_published_values_and_gradients():
    for case in cases("methods/mlkd"):

        def total(weak, strong, case=case):
            loss = losses.mlkd_loss(
                weak,
                strong,
                case["teacher_weak"],
                case["teacher_strong"],
                case["temperature"].item(),
                bool(case["standardize"]),
            )
            ce = losses.cross_entropy(weak, case["labels"])
            ce += losses.cross_entropy(strong, case["labels"])
            return case["ce_weight"].item() * ce.mean() + case["kd_weight"].item() * loss

        value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(
            case["student_weak"], case["student_strong"]
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        for gradient, view in zip(gradients, ("weak", "strong"), strict=True):
            expected = case[f"grad_{view}"]
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


def test_mlkd_loss_is_zero_for_equal_logits_and_sends_the_teacher_no_gradient():
    weak, strong, other = draw(3, 6, 5)
    np.testing.assert_allclose(losses.mlkd_loss(weak, strong, weak, strong), 0.0, atol=1e-6)
    gradients = jax.grad(losses.mlkd_loss, (2, 3))(weak, strong, other, weak)
    jax.tree.map(lambda gradient: np.testing.assert_array_equal(gradient, 0.0), gradients)
    saturated = 1e4 * jnp.eye(5)
    assert np.isfinite(losses.mlkd_loss(saturated, saturated, saturated[::-1], saturated))
