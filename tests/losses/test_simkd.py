"""Distillation with the reused teacher classifier against the published values."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.simkd import Projector, SimKD
from amdjax.models import Outputs
from tests.losses.random_arrays import draw
from tests.reference_values import load, nhwc, prefixed


def _tree(state: dict[str, np.ndarray]) -> dict:
    """Converts parameters or statistics of the published projector."""
    names = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    flat = {}
    for key, value in state.items():
        _, index, name = key.split(".")
        layer, batch_norm = divmod(int(index), 3)
        if batch_norm:
            flat[f"bn_{layer}", names.get(name, "scale")] = value
        else:
            flat[f"conv_{layer}", "kernel"] = value.transpose(2, 3, 1, 0)
    return flax.traverse_util.unflatten_dict(flat)


@pytest.mark.parametrize("k", range(3))
def test_simkd_has_the_published_values_gradients_and_statistics(k):
    arrays = load("methods/simkd")
    student, teacher = (nhwc(arrays[f"{side}_{k}"]) for side in ("student", "teacher"))
    parameters = prefixed(arrays, f"param_{k}")
    params = _tree({key: value for key, value in parameters.items() if "running" not in key})
    state = _tree({key: value for key, value in parameters.items() if "running" in key})
    size = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    module, channels = Projector(int(arrays[f"factor_{k}"])), teacher.shape[-1]

    def classify(projected):
        classifier = prefixed(arrays, f"classifier_{k}")
        return projected.mean((1, 2)) @ classifier["weight"].T + classifier["bias"]

    def mean(params, student):
        pooled = functional.adaptive_average_pool(student, *size)
        projected, updates = module.apply(
            {"params": params, "state": state}, pooled, channels, True, mutable=["state"]
        )
        target = functional.adaptive_average_pool(teacher, *size)
        return jnp.mean((projected - target) ** 2), (projected, updates["state"])

    (value, (projected, after)), gradients = jax.jit(
        jax.value_and_grad(mean, (0, 1), has_aux=True)
    )(params, student)
    np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
    np.testing.assert_allclose(projected, nhwc(arrays[f"projected_{k}"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classify(projected), arrays[f"logits_train_{k}"], atol=1e-4)
    expected = (_tree(prefixed(arrays, f"grad_param_{k}")), nhwc(arrays[f"grad_{k}"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max()),
        gradients,
        expected,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        after,
        _tree(prefixed(arrays, f"after_{k}")),
    )
    pooled = functional.adaptive_average_pool(student, *size)
    frozen = module.apply({"params": params, "state": state}, pooled, channels, False)
    np.testing.assert_allclose(classify(frozen), arrays[f"logits_eval_{k}"], rtol=1e-4, atol=1e-5)


def _apply(student, teacher, factor=2):
    module, classifier = SimKD(factor), (draw(6, 3), draw(3))
    arguments = ([student], [teacher], *classifier)
    variables = module.init(jax.random.key(0), *arguments)
    return module, classifier, variables, arguments


def test_simkd_predicts_with_the_classifier_of_the_last_step():
    module, _, variables, arguments = _apply(draw(2, 2, 2, 4), draw(2, 4, 4, 6, seed=1))
    arguments = (*arguments[:2], 2.0 * arguments[2], 3.0 + arguments[3])
    loss, updates = module.apply(variables, *arguments, mutable=["state"])
    assert loss.shape == (2,)
    variables = {**variables, **updates}
    outputs = Outputs(draw(2, 3), {"last": arguments[0][0]}, draw(2, 4))
    logits = module.apply(variables, outputs, {"features": ("last",)}, method=SimKD.logits)
    projected = Projector().apply(
        {name: variables[name]["projector"] for name in ("params", "state")},
        arguments[0][0],
        6,
        train=False,
    )
    by_hand = projected.mean((1, 2)) @ arguments[2] + arguments[3]
    np.testing.assert_allclose(logits, by_hand, rtol=1e-5)


def test_simkd_refuses_several_layers_and_a_larger_map_of_the_student():
    with pytest.raises(UserError, match=r"student's \(4x4\) would be pooled to its size \(2x2\)"):
        _apply(draw(2, 4, 4, 4), draw(2, 2, 2, 6))
    module, classifier, *_ = _apply(draw(2, 2, 2, 4), draw(2, 2, 2, 6))
    features = [draw(2, 2, 2, 4)] * 2
    with pytest.raises(UserError, match="SimKD compares one layer, not 2"):
        module.init(jax.random.key(0), features, features, *classifier)


@pytest.mark.parametrize("factor", [0, 7])
def test_simkd_refuses_a_factor_that_leaves_no_channels(factor):
    message = rf"simkd\.factor={factor} divides the 6 channels .* between 1 and 6"
    with pytest.raises(UserError, match=message):
        _apply(draw(2, 2, 2, 4), draw(2, 2, 2, 6), factor)
