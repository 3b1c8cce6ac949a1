"""The train step against a trajectory computed in PyTorch, and on 1, 2 and 4 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from amdjax import distributed
from amdjax.configs import default
from amdjax.data.augment import create_augment
from amdjax.data.mixing import MixedBatch
from amdjax.losses import LOSSES, build_objective
from amdjax.losses.registry import STEP_METRICS
from amdjax.models import Outputs, create_model, import_torch_state_dict, init_variables
from amdjax.models.layers import Dropout
from amdjax.predictor import Predictor
from amdjax.training import train_step
from amdjax.training.dummy_outputs import dummy_inputs, dummy_outputs
from amdjax.training.evaluation import make_eval_step
from amdjax.training.optimizer import create_optimizer
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_train_step
from tests.reference_values import load, nhwc, prefixed

AMD = {
    "ce": {"weight": 0.1},
    "kd": {"weight": 0.9, "temperature": 4.0},
    "am": {"weight": 5000.0},
}


NOTHING = {"params": {}, "state": {}}  # variables of losses that have none


def _sgd(learning_rate=0.05):
    config = default.get_config()
    config.optim.learning_rate = learning_rate
    config.optim.boundaries = ()
    return create_optimizer(config.optim, 1, 1)


def _mesh(devices):
    return distributed.make_mesh(jax.devices()[:devices])


def _shard_step(step, mesh):
    return distributed.shard_step(step, mesh, batch_argument=2)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.accelerator), 4])
def test_train_step_follows_the_pytorch_trajectory_of_amd(devices):
    arrays = load("trajectory_amd")
    student = import_torch_state_dict("wrn_10_1", prefixed(arrays, "student"))
    teacher = import_torch_state_dict("wrn_10_2", prefixed(arrays, "teacher"))
    mesh = _mesh(devices)
    step = _shard_step(
        make_train_step(
            student=create_model("wrn_10_1", 10, axis_name=distributed.BATCH_AXIS),
            teacher=create_model("wrn_10_2", 10),
            objective=build_objective(AMD),
            augment=lambda keys, images: images,
            optimizer=_sgd(),
        ),
        mesh,
    )
    state = distributed.replicate(TrainState.create(student, NOTHING, _sgd()), mesh)
    given = distributed.replicate(teacher, mesh)
    for i, expected in enumerate(arrays["records"]):
        batch = {
            "image": nhwc(arrays["images"][i]),
            "label": arrays["labels"][i].astype(np.int32),
        }
        state, metrics = step(state, given, distributed.shard(batch, mesh), 0)
        ours = [metrics[name] for name in ("loss", "ce", "kd", "am")]
        np.testing.assert_allclose(ours, expected, rtol=1e-3)
    assert set(metrics) == {*AMD, *STEP_METRICS}
    jax.tree.map(np.testing.assert_array_equal, given, teacher)
    final = import_torch_state_dict(
        "wrn_10_1", {**prefixed(arrays, "student"), **prefixed(arrays, "final")}
    )
    for leaf in (
        ("params", "conv1", "kernel"),
        ("params", "block3", "layer_0", "conv2", "kernel"),
        ("params", "fc", "kernel"),
        ("batch_stats", "bn1", "var"),
    ):
        a, b = state.variables, final
        for key in leaf:
            a, b = a[key], b[key]
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


def _run(devices, losses, steps=10, sync=True):
    """Ten steps with augmentation on random images; returns the losses and the last state."""
    mesh = _mesh(devices)
    axis = distributed.BATCH_AXIS if sync else None
    student = create_model("wrn_10_1", 4, axis_name=axis)
    teacher = create_model("resnet8", 4, axis_name=axis)
    config = default.get_config()
    config.augment.padding, config.augment.flip = 2, True
    objective, augment = build_objective(losses), create_augment(config.augment)
    step = _shard_step(
        make_train_step(
            student=student,
            teacher=teacher,
            objective=objective,
            augment=augment,
            optimizer=_sgd(0.01),
            strong_augment=augment if objective.needs_strong_view else None,
            num_examples=20,
        ),
        mesh,
    )
    ours, theirs = (dummy_outputs(one, (16, 16, 3)) for one in (student, teacher))
    inputs = dummy_inputs(ours, theirs, num_examples=20)
    loss_variables = objective.init(jax.random.key(3), inputs)
    state = TrainState.create(
        init_variables(student, jax.random.key(1), (16, 16, 3)), loss_variables, _sgd(0.01)
    )
    given = init_variables(teacher, jax.random.key(2), (16, 16, 3))
    state, given = distributed.replicate((state, given), mesh)
    rng = np.random.default_rng(0)
    history = []
    for _ in range(steps):
        batch = {
            "image": rng.integers(0, 256, (8, 16, 16, 3), np.uint8),
            "label": rng.integers(0, 4, 8).astype(np.int32),
        }
        if objective.needs_example_index:
            batch["index"] = np.arange(20, dtype=np.int32)[::-1][:8]
        state, metrics = step(state, given, distributed.shard(batch, mesh), 3)
        jax.block_until_ready(metrics)
        history.append([float(value) for value in metrics.values()])
    return np.asarray(history), state


@pytest.mark.slow
def test_train_step_does_not_depend_on_the_number_of_devices():
    everything = {name: {} for name in ("ce", "kd", "amc", "contrastive")}
    everything |= {name: {"weight": 10.0} for name in ("at", "sp", "am")}
    one, state = _run(1, everything)
    for devices in (2, 4):
        other, other_state = _run(devices, everything)
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            other_state.variables,
            state.variables,
        )


@pytest.mark.slow
def test_no_loss_depends_on_the_number_of_devices():
    catalogue = {
        name: {"weight": min(loss.weight, 1.0)}
        for name, loss in LOSSES.items()
        if loss.logits_fn is None
    }
    catalogue |= {"a_softmax": {}, "pkt": {"weight": 100.0}, "afds": {"adapter": True}}
    catalogue |= {"crd": {"negatives": 12, "dimension": 8}}
    _assert_same_on_four_devices(catalogue)


@pytest.mark.slow
def test_simkd_does_not_depend_on_the_number_of_devices():
    _assert_same_on_four_devices({"simkd": {}})


def _assert_same_on_four_devices(losses):
    one, state = _run(1, losses, steps=2)
    four, other_state = _run(4, losses, steps=2)
    np.testing.assert_allclose(four[0], one[0], rtol=1e-4, atol=1e-6)
    # After a step: rounding moves some samples over the kinks of hinges and absolute values.
    np.testing.assert_allclose(four[1], one[1], rtol=1e-3, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        other_state.loss_variables,
        state.loss_variables,
    )


def test_train_step_without_a_teacher_reads_cached_outputs_and_a_second_view():
    student, mesh = create_model("resnet8", 4), _mesh(1)
    objective = build_objective({"ce": {}, "ce_strong": {}, "kd": {}})
    create = make_train_step(
        student=student,
        teacher=create_model("wrn_10_1", 4),
        objective=objective,
        augment=lambda keys, images: images / 255.0,
        optimizer=_sgd(),
        strong_augment=lambda keys, images: images / 255.0,
    )
    variables = init_variables(student, jax.random.key(1), (8, 8, 3))
    batch = {
        "image": jnp.zeros((4, 8, 8, 3), jnp.uint8),
        "label": jnp.zeros(4, jnp.int32),
        "teacher": Outputs(jnp.zeros((4, 1, 4)), {}, jnp.zeros((4, 1, 8))),
    }
    state = TrainState.create(variables, NOTHING, _sgd())
    _, metrics = jax.eval_shape(_shard_step(create, mesh), state, None, batch, 0)
    assert {"ce", "ce_strong", "kd"} < metrics.keys()


@pytest.mark.parametrize("teacher_sees_mixed", [True, False])
def test_views_of_student_and_teacher(teacher_sees_mixed):
    def noise(keys, images):
        return images + jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)

    batch = {"image": jnp.zeros((2, 4, 4, 3)), "label": jnp.asarray([0, 1])}
    views = train_step._views(
        batch,
        jax.random.split(jax.random.key(0), 2),
        augment=noise,
        mix=lambda images, labels: MixedBatch(images + 10.0, labels, None),
        strong_augment=noise,
        apply_teacher=lambda images: images,
        teacher_sees_mixed=teacher_sees_mixed,
        needs_strong_teacher=True,
    )
    seen = views.mixed.images - (0.0 if teacher_sees_mixed else 10.0)
    np.testing.assert_allclose(views.teacher, seen, atol=1e-5)
    np.testing.assert_array_equal(views.strong_teacher, views.strong_images)
    assert np.abs(views.strong_images - (views.mixed.images - 10.0)).min() > 1e-4


def test_views_of_the_student_have_dropout_of_their_own():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, images, train=False, feature_hook=None):
            return Outputs(Dropout(0.5, train)(images), {}, images)

    images = jnp.ones((2, 8))
    views = train_step._Views(MixedBatch(images, jnp.zeros(2, int), None), None, images, None)
    outputs, strong_outputs, _ = train_step._apply_student(
        Dropped(), {"params": {}, "batch_stats": {}}, views, jax.random.key(0)
    )
    for one, other in zip(outputs.logits, strong_outputs.logits, strict=True):
        assert np.any(one != other)


def test_train_step_updates_the_ema():
    mesh = _mesh(2)
    model = create_model("resnet8", 2, axis_name=distributed.BATCH_AXIS)
    step = _shard_step(
        make_train_step(
            student=model,
            teacher=None,
            objective=build_objective({"ce": {}}),
            augment=lambda keys, images: images / 255.0,
            optimizer=_sgd(),
            ema_decay=0.75,
        ),
        mesh,
    )
    first = init_variables(model, jax.random.key(0), (8, 8, 3))
    state = distributed.replicate(TrainState.create(first, NOTHING, _sgd(), ema=True), mesh)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "label": np.array([0, 1, 1, 0], np.int32),
    }
    expected = first
    for _ in range(3):
        state, _ = step(state, None, distributed.shard(batch, mesh), 0)
        expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, expected, state.variables)
    assert state.eval_variables is state.ema
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.eval_variables,
        expected,
    )


@pytest.mark.slow
def test_train_step_averages_statistics_of_unsynchronised_batch_norm():
    one, _ = _run(1, AMD, steps=2, sync=False)
    synchronised, _ = _run(1, AMD, steps=2)
    # KD is 16 times a sum of terms that nearly cancel: rounding of 1e-7 in it becomes 1e-6.
    np.testing.assert_allclose(one[0], synchronised[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[1], synchronised[1], rtol=1e-3)  # rounding, after a step
    two, state = _run(2, AMD, steps=2, sync=False)
    assert np.abs(two - one).max() > 1e-4
    for leaf in jax.tree.leaves(state.batch_stats):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        np.testing.assert_array_equal(shards[0], shards[1])


def test_train_step_draws_random_numbers_from_seed_and_step():
    mesh = _mesh(2)

    def augment(keys, images):
        noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 3)))(keys)
        return images / 255.0 + noise

    model = create_model("resnet8", 2, axis_name=distributed.BATCH_AXIS)
    step = _shard_step(
        make_train_step(
            student=model,
            teacher=None,
            objective=build_objective({"ce": {}}),
            augment=augment,
            optimizer=_sgd(),
        ),
        mesh,
    )
    state = TrainState.create(init_variables(model, jax.random.key(0), (8, 8, 3)), NOTHING, _sgd())
    state = distributed.replicate(state, mesh)
    batch = distributed.shard(
        {"image": np.zeros((4, 8, 8, 3), np.uint8), "label": np.zeros(4, np.int32)}, mesh
    )
    first = step(state, None, batch, 0)[1]["loss"]
    again = step(state, None, batch, 0)[1]["loss"]
    later = step(state.replace(step=state.step + 1), None, batch, 0)[1]["loss"]
    other = step(state, None, batch, 1)[1]["loss"]
    assert first == again
    assert first != later
    assert first != other


@pytest.mark.parametrize("devices", [1, 4])
def test_eval_step_counts_unmasked_examples_only(devices):
    mesh = _mesh(devices)
    model = create_model("resnet8", 3, axis_name=distributed.BATCH_AXIS)
    variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    predictor = Predictor(model, build_objective({"ce": {}}), mean=(0.0,) * 3, std=(1.0,) * 3)
    step = distributed.shard_step(make_eval_step(predictor), mesh, batch_argument=1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), np.uint8)
    labels = rng.integers(0, 3, 8).astype(np.int32)
    mask = np.arange(8) < 5
    metrics = step(
        distributed.replicate(variables, mesh),
        distributed.shard({"image": images, "label": labels, "mask": mask}, mesh),
    )
    logits = model.apply(variables, images[:5] / 255.0).logits
    assert metrics.accuracy.count == 5
    np.testing.assert_allclose(
        metrics.compute()["accuracy"], np.mean(np.argmax(logits, -1) == labels[:5])
    )
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels[:5]).mean()
    np.testing.assert_allclose(metrics.compute()["nll"], nll, rtol=1e-5)


def test_train_step_in_bfloat16_is_close_to_float32():
    mesh = _mesh(1)

    def losses_in(dtype):
        student = create_model("wrn_10_1", 4, dtype, distributed.BATCH_AXIS)
        teacher = create_model("wrn_10_1", 4, dtype)
        step = _shard_step(
            make_train_step(
                student=student,
                teacher=teacher,
                objective=build_objective(AMD),
                augment=lambda keys, images: images / 128.0 - 1,
                optimizer=_sgd(),
            ),
            mesh,
        )
        state = TrainState.create(
            init_variables(student, jax.random.key(1), (8, 8, 3)), NOTHING, _sgd()
        )
        given = init_variables(teacher, jax.random.key(2), (8, 8, 3))
        rng = np.random.default_rng(0)
        batch = {
            "image": rng.integers(0, 256, (8, 8, 8, 3), np.uint8),
            "label": rng.integers(0, 4, 8).astype(np.int32),
        }
        state, metrics = step(state, given, distributed.shard(batch, mesh), 0)
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        return metrics

    exact, rounded = losses_in(jnp.float32), losses_in(jnp.bfloat16)
    assert rounded["am"].dtype == jnp.float32
    for name in ("ce", "kd"):
        np.testing.assert_allclose(rounded[name], exact[name], rtol=0.1)
        assert rounded[name] != exact[name]  # else nothing was rounded
    np.testing.assert_allclose(rounded["am"], exact["am"], rtol=0.2)
