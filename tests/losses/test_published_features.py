"""Losses of features against values of the published implementations, and their modules."""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.ab import ActivationBoundaries
from amdjax.losses.afds import AttentiveFeature
from amdjax.losses.connectors import BatchStatisticsNorm, Regressor
from amdjax.losses.fsp import FlowProcedure
from amdjax.losses.ft_factor import FactorTransfer
from amdjax.losses.reviewkd import AttentionFusion, ReviewKD, resize_nearest
from amdjax.losses.wkd import WassersteinFeature
from tests.losses.random_arrays import draw
from tests.reference_values import cases, load, nhwc, prefixed

Params = dict[str, dict[str, Any]]


def _layer_cases(name: str) -> Iterator[tuple[int, dict[str, np.ndarray], list, list, list]]:
    """Yields (k, all arrays of the file, student, teacher and gradient of each layer)."""
    arrays = load(f"methods/{name}")
    for k in (k for k in range(int(arrays["n"])) if f"loss_{k}" in arrays):
        layers = range(int(arrays[f"layers_{k}"]))
        yield (
            k,
            arrays,
            *(
                [nhwc(arrays[f"{key}_{k}_{i}"]) for i in layers]
                for key in ("student", "teacher", "grad")
            ),
        )


def _params(state: dict[str, np.ndarray], names: dict[str, str], transposed: str = " ") -> Params:
    """Converts a PyTorch state dict: path of a layer here, with "/" -> its name there."""
    flat = {}
    for path, name in names.items():
        weight = state[f"{name}.weight"]
        if weight.ndim == 1:
            flat[f"{path}/scale"] = weight
        elif transposed in name:  # transposed convolutions: IOHW, and mirrored
            flat[f"{path}/kernel"] = weight.transpose(2, 3, 0, 1)[::-1, ::-1]
        else:
            flat[f"{path}/kernel"] = weight.transpose(2, 3, 1, 0)
        if f"{name}.bias" in state:
            flat[f"{path}/bias"] = state[f"{name}.bias"]
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _assert_close_gradients(gradients: Any, expected: Any) -> None:
    """Compares trees of arrays, relative to the largest entry of each."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def compare(gradient: jax.Array, reference: np.ndarray) -> None:
        # The true gradient of a bias before batch norm is zero.
        tolerance = max(1e-4 * np.abs(reference).max(), 1e-5 * largest)
        np.testing.assert_allclose(gradient, reference, rtol=0, atol=tolerance)

    jax.tree.map(compare, gradients, expected)


def _value_and_gradients(
    module: nn.Module, params: Params, student: Any, *others: Any
) -> tuple[jax.Array, Params, Any]:
    """Returns mean loss, gradient of the parameters and gradient of the student's feature."""

    def mean(params, student):
        return jnp.mean(module.apply({"params": params}, student, *others))

    value, gradients = jax.jit(jax.value_and_grad(mean, (0, 1)))(params, student)
    return value, *gradients


@pytest.mark.parametrize(
    ("name", "loss"),
    [("fsp", losses.fsp_loss), ("ab", losses.ab_loss), ("reviewkd_hcl", losses.hcl_loss)],
)
def test_loss_of_layers_has_the_published_values_and_gradients(name, loss):
    for k, arrays, student, teacher, grad in _layer_cases(name):
        if any(key.startswith(f"param_{k}/") for key in arrays):
            continue  # with connectors, below
        arguments = {"margin": arrays[f"margin_{k}"].item()} if name == "ab" else {}

        def mean(student, teacher=teacher, arguments=arguments):
            value = loss(student, teacher, **arguments)
            return jnp.mean(value), value

        (value, per_sample), gradients = jax.jit(jax.value_and_grad(mean, has_aux=True))(student)
        np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
        assert per_sample.shape == student[0].shape[:1]
        if f"per_sample_{k}" in arrays:
            np.testing.assert_allclose(per_sample, arrays[f"per_sample_{k}"], rtol=1e-5)
        _assert_close_gradients(gradients, grad)


def test_activation_boundaries_have_the_published_values_with_connectors():
    *_, (k, arrays, student, teacher, grad) = _layer_cases("ab")
    names = {f"connector_{i}/{part}": f"connectors.{i}.{part}" for i in (0, 2) for part in _PARTS}
    params = _params(prefixed(arrays, f"param_{k}"), names)
    module = ActivationBoundaries(margin=arrays[f"margin_{k}"].item())
    value, param_gradients, gradients = _value_and_gradients(module, params, student, teacher)
    np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
    _assert_close_gradients(gradients, grad)
    _assert_close_gradients(param_gradients, _params(prefixed(arrays, f"grad_param_{k}"), names))


_PARTS = ("conv", "bn")


@pytest.mark.parametrize("connect_all", [False, True])
def test_activation_boundaries_connect_layers_of_equal_shape_if_all_are_connected(connect_all):
    features = [jnp.ones((2, 4, 4, 3)), jnp.ones((2, 2, 2, 5))]
    module = ActivationBoundaries(connect_all=connect_all)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), features, features))
    connectors = {"connector_0", "connector_1"} if connect_all else set()
    assert set(variables.get("params", {})) == connectors


def _review_names(layers: int) -> dict[str, str]:
    names = {}
    for i in range(layers):
        for conv in (1, 2):
            names[f"fusion_{i}/conv{conv}"] = f"abfs.{i}.conv{conv}.0"
            names[f"fusion_{i}/bn{conv}"] = f"abfs.{i}.conv{conv}.1"
        if i:
            names[f"fusion_{i}/attention"] = f"abfs.{i}.att_conv.0"
    return names


@pytest.mark.parametrize("case", [0, 1])
def test_reviewkd_has_the_published_features_values_and_gradients(case):
    k, arrays, student, teacher, grad = list(_layer_cases("reviewkd"))[case]
    names = _review_names(len(student))
    params = _params(prefixed(arrays, f"param_{k}"), names)

    def mean(params, student):
        loss, captured = ReviewKD().apply(
            {"params": params},
            student[:-1],
            teacher[:-1],
            student[-1],
            teacher[-1],
            capture_intermediates=lambda module, _: isinstance(module, AttentionFusion),
            mutable=["intermediates"],
        )
        fusions = captured["intermediates"]
        outputs = [fusions[f"fusion_{i}"]["__call__"][0][1] for i in range(len(student))]
        return jnp.mean(loss), outputs[::-1]

    (value, fused), (param_gradients, gradients) = jax.jit(
        jax.value_and_grad(mean, (0, 1), has_aux=True)
    )(params, student)
    np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
    for i, feature in enumerate(fused):
        np.testing.assert_allclose(feature, nhwc(arrays[f"fused_{k}_{i}"]), rtol=1e-4, atol=1e-5)
    _assert_close_gradients(gradients, grad)
    _assert_close_gradients(param_gradients, _params(prefixed(arrays, f"grad_param_{k}"), names))


@pytest.mark.parametrize(("max_width", "width"), [(2, 2), (512, 6)])
def test_reviewkd_fuses_at_most_as_many_channels_as_its_width(max_width, width):
    student, teacher = [jnp.ones((2, 4, 4, 3))], [jnp.ones((2, 4, 4, 5))]
    arguments = (student, teacher, jnp.ones((2, 6)), jnp.ones((2, 7)))
    module = ReviewKD(max_width=max_width)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments))["params"]
    kernels = [params[f"fusion_{i}"]["conv1"]["kernel"].shape for i in (0, 1)]
    assert kernels == [(1, 1, 6, width), (1, 1, 3, width)]


@pytest.mark.parametrize("k", range(6))
def test_wkd_f_has_the_published_values_and_gradients(k):
    arrays = load("methods/wkd_f")
    student, teacher = (nhwc(arrays[f"{side}_{k}"]) for side in ("student", "teacher"))
    settings = {key: arrays[f"{key}_{k}"].item() for key in ("grid", "ratio", "eps")}
    projector = ("none", "regressor", "bottleneck")[int(arrays[f"projector_{k}"])]
    names = {
        "none": {},
        "regressor": {f"regressor/{part}": part for part in _PARTS},
        "bottleneck": {part: part for part in ("conv1", "conv2", "conv3", "bn")},
    }[projector]
    transposed = "conv" if teacher.shape[1] > student.shape[1] else " "
    params = _params(prefixed(arrays, f"param_{k}"), names, transposed)
    module = WassersteinFeature(projector, width=8, **settings)
    value, param_gradients, gradient = _value_and_gradients(module, params, student, teacher)
    np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
    _assert_close_gradients(gradient, nhwc(arrays[f"grad_{k}"]))
    if names:
        expected = _params(prefixed(arrays, f"grad_param_{k}"), names, transposed)
        _assert_close_gradients(param_gradients, expected)
    else:
        loss = losses.wkd_feature_loss(student, teacher, **settings)
        np.testing.assert_allclose(loss.mean(), value, rtol=1e-6)


def test_wasserstein_feature_adds_its_eps_to_the_variances():
    student, teacher = draw(2, 2, 4, 4, 3)
    loss = WassersteinFeature("none", eps=0.1).apply({}, student, teacher)
    expected = losses.wkd_feature_loss(student, teacher, eps=0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.all(loss != losses.wkd_feature_loss(student, teacher))


@pytest.mark.parametrize("k", range(3))
def test_ft_factor_has_the_published_values_and_gradients(k):
    arrays = load("methods/ft_factor")
    student, teacher = (nhwc(arrays[f"{side}_{k}"]) for side in ("student", "teacher"))
    translator = {
        f"translator/{part}_{i}": f"translator.encoder.{3 * i + j}"
        for i in range(3)
        for j, part in enumerate(("conv", "bn"))
    }
    paraphraser = {
        f"{side}/conv_{i}": f"paraphraser.{side}.{3 * i}"
        for i in range(3)
        for side in ("encoder", "decoder")
    }
    state = prefixed(arrays, f"param_{k}")
    params = _params(state, {**translator, **paraphraser}, "decoder")
    expected = _params(prefixed(arrays, f"grad_param_{k}"), translator)
    rate = arrays[f"rate_{k}"].item()

    value, param_gradients, gradient = _value_and_gradients(
        FactorTransfer(rate, reconstruction_weight=0.0), params, student, teacher
    )
    np.testing.assert_allclose(value, arrays[f"loss_{k}"], rtol=1e-5)
    _assert_close_gradients(gradient, nhwc(arrays[f"grad_{k}"]))
    _assert_close_gradients(param_gradients["translator"], expected["translator"])

    total, param_gradients, same_gradient = _value_and_gradients(
        FactorTransfer(rate, reconstruction_weight=1.0), params, student, teacher
    )
    np.testing.assert_allclose(total - value, arrays[f"reconstruction_{k}"], rtol=1e-5)
    np.testing.assert_allclose(same_gradient, gradient, rtol=1e-5, atol=1e-9)
    _assert_close_gradients(param_gradients["translator"], expected["translator"])
    reconstruction = _params(prefixed(arrays, f"grad_reconstruction_{k}"), paraphraser, "decoder")
    for side in ("encoder", "decoder"):
        _assert_close_gradients(param_gradients[side], reconstruction[side])


def test_ft_factor_refuses_a_rate_that_leaves_no_channels():
    module, student, teacher = FactorTransfer(0.1), draw(2, 2, 2, 4), draw(2, 2, 2, 6)
    with pytest.raises(UserError, match=r"ft_factor\.rate=0\.1 of the teacher's 6 channels leaves"):
        module.init(jax.random.key(0), student, teacher)


def test_afds_has_the_published_values_and_gradients():
    arrays = load("methods/afds")
    names = {f"attention_{i}": f"attention.{2 * i}" for i in (0, 1)}
    for k, case in enumerate(cases("methods/afds")):
        if case["att_f"] != 1:
            continue  # an attention of fewer hidden channels, which the module does not have
        dense = [
            jax.tree.map(
                lambda leaf: leaf.squeeze((0, 1)) if leaf.ndim == 4 else leaf,
                _params(prefixed(arrays, f"{key}_{k}"), names),
            )
            for key in ("param", "grad_param")
        ]
        value, param_gradients, gradient = _value_and_gradients(
            AttentiveFeature(), dense[0], case["student"], case["teacher"]
        )
        np.testing.assert_allclose(value, case["loss"], rtol=1e-5)
        _assert_close_gradients(gradient, case["grad"])
        _assert_close_gradients(param_gradients, dense[1])


@pytest.mark.parametrize("loss", [losses.fsp_loss, losses.hcl_loss, losses.wkd_feature_loss])
def test_feature_loss_is_zero_for_equal_features_and_sends_the_teacher_no_gradient(loss):
    student, teacher = draw(2, 3, 6, 6, 4)

    def total(student, teacher):
        if loss is losses.wkd_feature_loss:
            return jnp.sum(loss(student, teacher))
        return jnp.sum(loss([student, student[:, ::2]], [teacher, teacher[:, ::2]]))

    np.testing.assert_array_equal(total(student, student), 0.0)
    assert total(student, teacher) > 0
    np.testing.assert_array_equal(jax.grad(total, 1)(student, teacher), 0.0)


def _list_modules() -> dict[str, tuple[nn.Module, Callable[[jax.Array, jax.Array], tuple]]]:
    """Returns name -> (module, arguments from features of student and teacher)."""

    def lists(student, teacher):
        return [student, student], [teacher, teacher]

    return {
        "ab": (ActivationBoundaries(), lists),
        "ab_connected": (ActivationBoundaries(connect_all=True), lists),
        "fsp": (FlowProcedure(adapter=True), lists),
        "reviewkd": (ReviewKD(), lambda s, t: (*lists(s, t), s[:, 0, 0], t[:, 0, 0])),
        "ft_factor": (FactorTransfer(), lambda s, t: (s, t)),
        "wkd_f": (WassersteinFeature(), lambda s, t: (s, t)),
        "wkd_f_bottleneck": (WassersteinFeature("bottleneck", 8), lambda s, t: (s, t)),
    }


@pytest.mark.parametrize("name", _list_modules())
def test_module_of_zero_features_is_finite_without_teacher_gradient(name):
    module, arguments = _list_modules()[name]
    student, teacher = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 5))
    variables = module.init(jax.random.key(0), *arguments(student, teacher))

    def total(student, teacher):
        return module.apply(variables, *arguments(student, teacher)).sum()

    value, (gradient, teacher_gradient) = jax.jit(jax.value_and_grad(total, (0, 1)))(
        student, teacher
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(teacher_gradient, 0.0)


@pytest.mark.parametrize("name", ["regressor", "none"])
def test_losses_without_adapter_refuse_unequal_channels(name):
    student, teacher = draw(2, 4, 4, 3), draw(2, 4, 4, 5)
    if name == "none":
        with pytest.raises(UserError, match="the student has 3 channels and the teacher 5: set "):
            losses.wkd_feature_loss(student, teacher)
    else:
        with pytest.raises(UserError, match=r"the teacher 5: set config\.losses\.fsp\.adapter"):
            losses.fsp_loss([student] * 2, [teacher] * 2)


def test_fsp_loss_refuses_a_single_layer():
    with pytest.raises(UserError, match="FSP needs at least two layers"):
        losses.fsp_loss([draw(2, 4, 4, 3)], [draw(2, 4, 4, 3)])


def test_wkd_feature_loss_refuses_cells_of_one_position():
    with pytest.raises(UserError, match="4x4 cells on a 4x4 feature map has cells of one position"):
        losses.wkd_feature_loss(draw(2, 4, 4, 3), draw(2, 4, 4, 3), grid=4)


def test_wasserstein_feature_refuses_an_unknown_projector():
    with pytest.raises(UserError, match="projector of the loss wkd_f 'regresor'; did you mean reg"):
        WassersteinFeature("regresor").init(jax.random.key(0), *draw(2, 2, 4, 4, 3))


@pytest.mark.parametrize(
    ("size", "to", "kernel"),
    [(8, 4, (3, 3)), (4, 8, (4, 4)), (4, 4, (1, 1)), (7, 5, (3, 3))],
)
def test_regressor_maps_to_the_shape_of_the_teacher(size, to, kernel):
    x = draw(2, size, size, 3)
    y, variables = Regressor((to, to, 5)).init_with_output(jax.random.key(0), x)
    assert y.shape == (2, to, to, 5)
    assert variables["params"]["conv"]["kernel"].shape == (*kernel, 3, 5)


@pytest.mark.parametrize(("size", "to"), [(8, 4), (4, 8), (4, 4)])
def test_regressor_starts_from_the_distribution_of_pytorch(size, to):
    # U(+-1 / sqrt(n)) for n inputs of a convolution, and n outputs of a transposed one.
    kernel = Regressor((to, to, 64)).init(jax.random.key(0), draw(1, size, size, 32))["params"][
        "conv"
    ]["kernel"]
    bound = (kernel[..., 0].size if to <= size else kernel[..., 0, :].size) ** -0.5
    np.testing.assert_allclose(np.abs(kernel).max(), bound, rtol=0.01)
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)


def test_regressor_refuses_to_enlarge_other_than_twice():
    with pytest.raises(UserError, match="4x4 of the student has no regressor to the teacher's 6x6"):
        Regressor((6, 6, 5)).init(jax.random.key(0), draw(2, 4, 4, 3))


def test_batch_norm_normalizes_over_batch_and_positions():
    x = 3.0 * draw(4, 5, 5, 2) + 1.0
    y, variables = BatchStatisticsNorm().init_with_output(jax.random.key(0), x)
    assert set(variables) == {"params"}
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1.0, rtol=1e-4)


@pytest.mark.parametrize(("size", "cells"), [(8, 4), (7, 3), (5, 2), (3, 4)])
def test_adaptive_average_pool_averages_the_adaptive_cells(size, cells):
    x = draw(2, size, size + 1, 3)
    means = [cell.mean((1, 2)) for cell in functional.adaptive_cells(x, cells, 2)]
    pooled = functional.adaptive_average_pool(x, cells, 2)
    np.testing.assert_allclose(
        pooled, jnp.stack(means, 1).reshape(2, cells, 2, 3), rtol=1e-5, atol=1e-6
    )
    bounds = [
        (int(np.floor(i * size / cells)), int(np.ceil((i + 1) * size / cells)))
        for i in range(cells)
    ]
    column = x[:, :, :1]
    by_hand = jnp.stack([column[:, a:b].mean(1) for a, b in bounds], axis=1)
    np.testing.assert_allclose(
        functional.adaptive_average_pool(column, cells, 1), by_hand, rtol=1e-5, atol=1e-6
    )


def test_resize_nearest_repeats_or_skips_positions():
    x = jnp.arange(6.0).reshape(1, 3, 2, 1)
    np.testing.assert_array_equal(resize_nearest(x, 4, 1)[0, :, :, 0], [[0.0], [0.0], [2.0], [4.0]])
