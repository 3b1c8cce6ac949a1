"""Many steps as one program against one step at a time, and a teacher asked once against always."""

import functools

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.data import InMemorySource, TrainBatches
from amdjax.data.augment import create_augment
from amdjax.errors import UserError
from amdjax.losses import build_objective
from amdjax.models import create_model, init_variables
from amdjax.training.multi_step import StepRunner, chunk_ends
from amdjax.training.optimizer import create_optimizer
from amdjax.training.preflight import dummy_outputs
from amdjax.training.teacher_cache import cache_teacher_outputs, check_teacher_cache
from amdjax.training.train_state import TrainState
from amdjax.training.train_step import make_train_step
from configs import default

_SHAPE = (16, 16, 3)
_LOSSES = {"ce": {}, "kd": {}, "am": {"weight": 50.0}, "at": {"weight": 50.0}, "rkd": {}}


def _config(**augment):
    config = default.get_config()
    # So low that rounding does not grow: with 0.01 a difference of 1e-7 is one of 1e-3 in 3 steps.
    config.optim.learning_rate = 1e-3
    config.batch_size = 8
    config.augment.update(augment)
    return config


def _split(count=30):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *_SHAPE), np.uint8)
    return InMemorySource(images, rng.integers(0, 4, count).astype(np.int32))


def _train(config, way, cached=False, devices=2, steps=5, seeds=(3,)):
    """The history of each metric and the variables at the end, of each seed."""
    mesh = distributed.make_mesh(jax.devices()[:devices])
    split = _split()
    student = create_model("wrn_10_1", 4, axis_name=distributed.BATCH_AXIS)
    teacher = create_model("wrn_10_2", 4)
    taught = distributed.replicate(init_variables(teacher, jax.random.key(2), _SHAPE), mesh)
    objective, optimizer = build_objective(_LOSSES), create_optimizer(config.optim, 3, 2)
    step = make_train_step(
        student, teacher, objective, create_augment(config.augment)[0], optimizer
    )
    answers = None
    if cached:
        answers = cache_teacher_outputs(
            teacher, taught, split, objective.attention_features, config, mesh
        )
        taught = None
    batches = tuple(TrainBatches(split, config.batch_size, seed) for seed in seeds)
    feed = StepRunner(step, taught, batches, answers, mesh, np.asarray(seeds, np.uint32))
    states = tuple(
        distributed.replicate(
            TrainState.create(
                init_variables(student, jax.random.key(seed), _SHAPE),
                {"params": {}, "state": {}},
                optimizer,
            ),
            mesh,
        )
        for seed in seeds
    )
    images, labels = split.arrays()
    examples = {"image": images, "label": labels} | ({"teacher": answers} if cached else {})
    opened, stops = {
        "streaming": (feed.streaming(0, steps), range(1, steps + 1)),
        "resident": (feed.resident(examples, 3), (3, steps)),
    }[way]
    histories, done = [{} for _ in seeds], 0
    with opened as advance:
        for stop in stops:
            states, metrics = advance(states, done, stop)
            for history, values in zip(histories, metrics, strict=True):
                for name, value in values.items():
                    history.setdefault(name, []).extend(np.atleast_1d(value)[: stop - done])
            done = stop
    assert all(len(values) == steps for history in histories for values in history.values())
    assert all(state.step == steps for state in states)
    return [(history, state.variables) for history, state in zip(histories, states, strict=True)]


def _assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        _assert_same_training(one, other)


def _assert_same_training(one, other):
    for name, values in one[0].items():  # the untrained networks' kd, 5e-3, is rounding to 1e-6
        np.testing.assert_allclose(other[0][name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one[1], other[1]
    )


@pytest.mark.parametrize("devices", [1, 4])
def test_one_program_of_many_steps_gives_the_same_numbers(devices):
    # Across an epoch's end (three batches), with every random number in use.
    config = _config(padding=2, flip=True, noise=0.1)
    streamed, resident = (_train(config, way, devices=devices) for way in ("streaming", "resident"))
    _assert_same(streamed, resident)


@pytest.mark.slow
def test_networks_trained_as_one_program_are_those_trained_alone():
    # Each with its own first weights, order of the data, flips and noise.
    config = _config(flip=True, noise=0.1)
    alone = [_train(config, "streaming", seeds=(seed,))[0] for seed in (3, 8)]
    assert alone[0][0]["loss"] != alone[1][0]["loss"]
    for way in ("streaming", "resident"):
        _assert_same(alone, _train(config, way, seeds=(3, 8)))


@functools.cache
def _streamed(flip):
    return _train(_config(flip=flip), "streaming")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("way", ["streaming", "resident"])
def test_a_teacher_asked_once_gives_the_same_losses(way, flip):
    config = _config(flip=flip)
    _assert_same(_streamed(flip), _train(config, way, cached=True))


@pytest.mark.parametrize(
    ("losses", "change", "message"),
    [
        ({"kd": {}}, {"augment.padding": 2}, "config.augment.padding=2 changes the images"),
        ({"kd": {}}, {"augment.noise": 0.1}, "config.augment.noise=0.1 changes the images"),
        ({"kd": {}}, {"mix.name": "mixup"}, "config.mix.name='mixup' changes the images"),
        ({"kd": {}}, {"data.random_resized_crop": True}, "random_resized_crop=True changes"),
        ({"sp": {}, "fitnet": {}}, {}, "sp and hint reads whole features"),
    ],
)
def test_what_cannot_be_kept_is_refused(losses, change, message):
    config = default.get_config()
    config.update_from_flattened_dict(change)
    outputs = dummy_outputs(create_model("resnet8", 4), _SHAPE)
    with pytest.raises(UserError, match=message):
        check_teacher_cache(config, build_objective(losses), outputs, outputs)


def test_maps_that_would_be_pooled_before_they_are_taken_are_refused():
    model = create_model("resnet8", 4)
    student, teacher = dummy_outputs(model, _SHAPE), dummy_outputs(model, (32, 32, 3))
    with pytest.raises(UserError, match=r"stage1 \(32x32\) is larger than the student's \(16x16\)"):
        check_teacher_cache(default.get_config(), build_objective({"at": {}}), student, teacher)


def test_unmixed_images_may_be_asked_about_before():
    config = default.get_config()
    config.mix.name, config.mix.teacher_sees_mixed = "cutmix", False
    outputs = dummy_outputs(create_model("resnet8", 4), _SHAPE)
    check_teacher_cache(config, build_objective({"kd": {}, "am": {}}), outputs, outputs)


def test_spans_end_where_there_is_something_to_do():
    assert list(chunk_ends(0, 10, 4, lambda step: step == 6)) == [4, 6, 10]
    assert list(chunk_ends(7, 9, 1, lambda step: False)) == [8, 9]
    assert list(chunk_ends(5, 5, 3, lambda step: True)) == []
