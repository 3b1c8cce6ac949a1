"""Contrastive representation distillation against the published values, and its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import losses
from amdjax.losses.crd import ContrastiveRepresentation, Memory, draw_negatives
from tests.losses.random_arrays import draw
from tests.reference_values import load


def _close(actual, expected, tolerance=1e-4):
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("k", range(4))
def test_crd_loss_has_the_published_values_gradients_and_memory(k):
    arrays = load("methods/crd")
    settings = {key: arrays[f"{key}_{k}"].item() for key in ("temperature", "momentum")}
    params = [
        arrays[f"param_{k}/{side}.{part}"]
        for side in ("student", "teacher")
        for part in ("weight", "bias")
    ]
    memory = Memory(
        arrays[f"memory_student_{k}"], arrays[f"memory_teacher_{k}"], jnp.zeros(()), jnp.zeros(())
    )

    def mean(student, teacher, params, memory, contrast_index):
        embeddings = []
        for x, weight, bias in ((student, *params[:2]), (teacher, *params[2:])):
            x = x @ weight.T + bias
            embeddings.append(x / jnp.linalg.norm(x, axis=1, keepdims=True))
        loss, memory = losses.crd_loss(*embeddings, memory, contrast_index, **settings)
        assert loss.shape == student.shape[:1]
        return jnp.mean(loss), memory

    step = jax.jit(jax.value_and_grad(mean, (0, 1, 2), has_aux=True))
    for i in range(int(arrays[f"steps_{k}"])):
        (value, memory), (grad, grad_teacher, grad_params) = step(
            arrays[f"student_{k}_{i}"],
            arrays[f"teacher_{k}_{i}"],
            params,
            memory,
            arrays[f"contrast_index_{k}_{i}"],
        )
        np.testing.assert_allclose(value, arrays[f"loss_{k}_{i}"], rtol=1e-5)
        _close(grad, arrays[f"grad_{k}_{i}"])
        _close(grad_teacher, arrays[f"grad_teacher_{k}_{i}"])
        names = ("student.weight", "student.bias", "teacher.weight", "teacher.bias")
        for name, gradient in zip(names, grad_params, strict=True):
            _close(gradient, arrays[f"grad_param_{k}_{i}/{name}"])
        for side in ("student", "teacher"):
            after = arrays[f"memory_{side}_after_{k}_{i}"]
            np.testing.assert_allclose(getattr(memory, side), after, atol=1e-5)
            scale = getattr(memory, f"{side}_scale")
            np.testing.assert_allclose(scale, arrays[f"z_{side}_{k}_{i}"], rtol=1e-5)


def test_draw_negatives_takes_every_row_of_other_classes_equally_often():
    memory_labels = jnp.asarray([2.0, 0.0, -1.0, 1.0, 0.0, 2.0, 2.0, -1.0])
    labels = jnp.asarray([0.0, 2.0, 5.0])
    rows = draw_negatives(jax.random.key(0), labels, memory_labels, 6000)
    counts = np.stack([np.bincount(one, minlength=8) for one in np.asarray(rows)])
    others = np.asarray(memory_labels) != np.asarray(labels)[:, None]
    np.testing.assert_array_equal(counts > 0, others)
    np.testing.assert_allclose(counts / 6000, others / others.sum(1, keepdims=True), atol=0.02)


def test_contrastive_representation_remembers_embeddings_and_classes_of_the_batch():
    student, teacher = draw(3, 4), draw(3, 6, seed=1)
    labels, index = jnp.asarray([1, 0, 1]), jnp.asarray([7, 2, 4])
    module = ContrastiveRepresentation(dimension=5, negatives=6)
    arguments = (student, teacher, labels, index, 9, jax.random.key(1))
    variables = module.init(jax.random.key(0), *arguments)
    before = variables["state"]
    assert before["memory"]["student"].shape == (9, 5)
    assert np.abs(before["memory"]["teacher"]).max() <= (3 / 5) ** 0.5
    np.testing.assert_array_equal(before["classes"], -1)

    def mean(teacher, params):
        loss, updates = module.apply(
            {**variables, "params": params}, student, teacher, *arguments[2:], mutable=["state"]
        )
        return jnp.mean(loss), updates["state"]

    (_, after), (gradient, param_gradients) = jax.jit(
        jax.value_and_grad(mean, (0, 1), has_aux=True)
    )(teacher, variables["params"])
    np.testing.assert_array_equal(gradient, 0.0)
    assert np.abs(param_gradients["teacher"]["kernel"]).max() > 0
    seen = np.isin(np.arange(9), index)
    changed = np.any(after["memory"]["student"] != before["memory"]["student"], axis=1)
    np.testing.assert_array_equal(changed, seen)
    np.testing.assert_allclose(np.linalg.norm(after["memory"]["teacher"][seen], axis=1), 1, 1e-5)
    np.testing.assert_array_equal(after["classes"][index], labels)
    np.testing.assert_array_equal(after["classes"][~seen], -1)
    assert after["memory"]["student_scale"] > 0


def test_contrastive_representation_keeps_its_memory_with_a_momentum_of_one():
    module = ContrastiveRepresentation(dimension=5, negatives=6, momentum=1.0)
    labels, index = np.asarray([1, 0, 1]), np.asarray([7, 2, 4])
    arguments = (draw(3, 4), draw(3, 6, seed=1), labels, index, 9, jax.random.key(1))

    @jax.jit
    def states():
        variables = module.init(jax.random.key(0), *arguments)
        return variables, module.apply(variables, *arguments, mutable=["state"])[1]

    variables, updates = states()
    for side in ("student", "teacher"):
        before, after = (
            np.asarray(state["state"]["memory"][side])[index] for state in (variables, updates)
        )
        unit = before / np.linalg.norm(before, axis=1, keepdims=True)
        np.testing.assert_allclose(after, unit, rtol=1e-5, atol=1e-6)
