"""Steps whose gradient is computed in parts: against whole steps, and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from amdjax import distributed
from amdjax.configs import default
from amdjax.data.augment import create_augment, normalize
from amdjax.data.mixing import MixedBatch
from amdjax.errors import UserError
from amdjax.losses import build_objective, register_loss
from amdjax.models.layers import FeatureRecorder, Model, Outputs, classify, global_mean
from amdjax.training.dummy_outputs import dummy_inputs, dummy_outputs
from amdjax.training.optimizer import create_optimizer
from amdjax.training.step_programs import ExampleRows, loop_train_steps, vmap_train_step
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_train_step
from tests.make_data import random_images

BATCH, SHAPE = 16, (8, 8, 3)
LOSSES = {"ce": {"weight": 1.0}, "kd": {"weight": 0.5}}


class TinyNet(Model):
    """A convolution, with or without batch norm of the images."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False, feature_hook=None):
        if self.norm:
            x = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name="norm")(x)
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        return classify(global_mean(x), FeatureRecorder(feature_hook), self.num_classes)


def _config(**augment):
    config = default.get_config()
    config.augment.update(augment)
    config.optim.boundaries = ()
    return config


OPTIMIZER = create_optimizer(_config().optim, 1, 1)


def _mix(key, images, labels, num_classes):
    one_hot = jax.nn.one_hot(labels, num_classes)
    images, labels = (0.6 * x + 0.4 * distributed.reverse_batch(x) for x in (images, one_hot))
    return MixedBatch(images, labels, None)


def _step(parts, norm=False, config=None, mix=None, losses=LOSSES):
    config = _config(padding=2, flip=True) if config is None else config
    return make_train_step(
        student=TinyNet(num_classes=3, norm=norm, axis_name=distributed.BATCH_AXIS),
        teacher=TinyNet(num_classes=3),
        objective=build_objective(losses),
        augment=create_augment(config.augment),
        optimizer=OPTIMIZER,
        mix=mix,
        accumulate=parts,
    )


@functools.cache
def _variables(seed=0, norm=False):
    return TinyNet(num_classes=3, norm=norm).init(jax.random.key(seed), jnp.zeros((2, *SHAPE)))


def _state(norm=False, losses=LOSSES):
    variables = {"batch_stats": {}, **_variables(norm=norm)}
    outputs = dummy_outputs(TinyNet(num_classes=3), SHAPE)
    of_losses = build_objective(losses).init(jax.random.key(0), dummy_inputs(outputs, outputs))
    return TrainState.create(variables, of_losses, OPTIMIZER)


def _examples(count=BATCH):
    labels = np.random.default_rng(0).integers(0, 3, count).astype(np.int32)
    return {"image": random_images(count, *SHAPE), "label": labels}


def _run(step, devices, steps=2, **state):
    mesh = distributed.make_mesh(jax.devices()[:devices])
    compiled = distributed.shard_step(step, mesh, batch_argument=2)
    state, teacher = distributed.replicate((_state(**state), _variables(seed=1)), mesh)
    history = []
    for _ in range(steps):
        batch = distributed.shard(_examples(), mesh)
        state, metrics = compiled(state, teacher, batch, np.uint32(3))
        jax.block_until_ready(metrics)
        history.append({name: float(value) for name, value in metrics.items()})
    return history, state


def _assert_same(run, other):
    for metrics, others in zip(run[0], other[0], strict=True):
        assert metrics == pytest.approx(others, rel=1e-5, abs=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        run[1].variables,
        other[1].variables,
    )


@functools.cache
def _whole():
    return _run(_step(parts=1), devices=1)


@pytest.mark.parametrize(("parts", "devices"), [(4, 1), (2, 4)])
def test_step_in_parts_equals_the_whole_step(parts, devices):
    _assert_same(_run(_step(parts), devices), _whole())


def test_steps_in_parts_of_several_networks_as_one_program_equal_single_steps():
    mesh = distributed.make_mesh(jax.devices()[:2])
    scanned = loop_train_steps(_step(parts=2))
    steps = vmap_train_step(scanned, (None, None, 0, 0, None))
    compiled = distributed.shard_step(steps, mesh, batch_argument=3, batch_axis=2)
    rows = jax.tree.map(ExampleRows.create, _examples())
    teacher, examples = distributed.replicate((_variables(seed=1), rows), mesh)
    indices = np.broadcast_to(np.arange(BATCH, dtype=np.int32), (2, 2, BATCH))
    states, metrics = compiled(
        (distributed.replicate(_state(), mesh),) * 2,
        teacher,
        examples,
        distributed.shard(indices, mesh, batch_axis=2),
        np.asarray([3, 5], np.uint32),
        np.int32(2),
    )
    history = [{name: float(values[i]) for name, values in metrics[0].items()} for i in (0, 1)]
    _assert_same((history, states[0]), _whole())
    assert metrics[1]["loss"][0] != metrics[0]["loss"][0]  # the crops and flips of another seed


def test_batch_norm_sees_each_part_and_is_updated_by_it():
    # Part j has the examples j, j + 2, j + 4, ... of the batch, on any number of devices.
    one, two = (_run(_step(2, norm=True, config=_config()), n, 1, norm=True) for n in (1, 2))
    _assert_same(one, two)
    augment = _config().augment
    images = np.asarray(normalize(_examples()["image"], augment.mean, augment.std))
    mean = np.zeros(3)
    for part in (images[0::2], images[1::2]):
        mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
    np.testing.assert_allclose(one[1].batch_stats["norm"]["mean"], mean, rtol=1e-5, atol=1e-6)


def test_state_of_losses_in_parts_does_not_depend_on_the_number_of_devices():
    losses = {"ce": {}, "center": {"weight": 1.0, "rate": 0.5}}
    step = _step(2, config=_config(), losses=losses)
    one, two = (_run(step, devices, losses=losses) for devices in (1, 2))
    _assert_same(one, two)
    centers = [jax.tree.leaves(state.loss_variables["state"])[0] for _, state in (one, two)]
    np.testing.assert_allclose(*centers, rtol=1e-5, atol=1e-6)


def test_mixing_in_parts_does_not_depend_on_the_number_of_devices():
    step = _step(2, config=_config(), mix=_mix)
    _assert_same(_run(step, devices=1, steps=1), _run(step, devices=4, steps=1))


def test_parts_draw_random_numbers_of_their_own():
    class RandomLogits(Model):
        @nn.compact
        def __call__(self, x, train=False, feature_hook=None):
            scale = self.param("scale", nn.initializers.ones, ())
            draw = jax.random.uniform(self.make_rng("dropout")) if train else 0.0
            logits = jnp.broadcast_to(scale * draw, (len(x), self.num_classes))
            return Outputs(logits, {}, logits)

    for power in (1, 2):
        register_loss(f"logits_{power}", summary="of dropout", inputs=("student.logits",))(
            lambda logits, power=power: jnp.mean(logits) ** power
        )
        register_loss(f"key_{power}", summary="of a key", inputs=("key",))(
            lambda key, power=power: jax.random.uniform(key) ** power
        )
    objective = build_objective({name: {} for name in ("logits_1", "logits_2", "key_1", "key_2")})
    step = make_train_step(
        student=RandomLogits(num_classes=3, axis_name=distributed.BATCH_AXIS),
        teacher=None,
        objective=objective,
        augment=lambda keys, images: images / 255.0,
        optimizer=OPTIMIZER,
        accumulate=2,
    )
    variables = {"params": {"scale": jnp.ones(())}, "batch_stats": {}}
    state = TrainState.create(variables, {"params": {}, "state": {}}, OPTIMIZER)
    compiled = distributed.shard_step(
        step, distributed.make_mesh(jax.devices()[:1]), batch_argument=2
    )
    _, metrics = compiled(state, None, _examples(4), np.uint32(3))
    for name in ("logits", "key"):  # the mean of the squares is that of equal draws squared
        assert metrics[f"{name}_2"] - metrics[f"{name}_1"] ** 2 > 1e-3


def test_check_batch_size_refuses_parts_that_are_not_equal():
    mesh = distributed.make_mesh(jax.devices()[:2])
    distributed.check_batch_size(12, mesh, parts=3)
    with pytest.raises(UserError, match=r"in 3 parts \(config\.accumulate\).* multiple of 6"):
        distributed.check_batch_size(16, mesh, parts=3)
