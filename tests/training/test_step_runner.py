"""Many steps as one program against single steps, and cached teacher outputs against a teacher."""

import functools

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.experiment import RunSpec
from amdjax.models import Outputs, init_variables
from amdjax.training.evaluation import compiled_eval_step
from amdjax.training.step_runner import StepRunner, _extra_rows, device_memory_left
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.trainer import Trainer, build_trainer

_SHAPE = (16, 16, 3)
_LOSSES = {"ce": {}, "kd": {}, "am": {"weight": 50.0}, "at": {"weight": 50.0}, "rkd": {}}
_STEPS = 5  # across the end of an epoch of three steps

History = dict[str, list[float]]


def _config(**augment):
    config = default.get_config()
    # So low that rounding does not grow: with 0.01 a difference of 1e-7 is one of 1e-3 in 3 steps.
    config.optim.learning_rate = 1e-3
    config.optim.boundaries = ()
    config.batch_size, config.epochs, config.log_every_steps = 8, 2, 3
    config.teacher.name = "wrn_10_2"
    config.augment.update(augment)
    return config


def _trainer(config, devices=2, losses=_LOSSES) -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, *_SHAPE), np.uint8)
    source = InMemorySource(images, rng.integers(0, 4, 30).astype(np.int32))
    dataset = Dataset("random", ("a", "b", "c", "d"), _SHAPE, source, source)
    spec = RunSpec(name="x", method="x", model="wrn_10_1", losses=losses, seed=0, teacher="teacher")
    return build_trainer(config, spec, dataset, distributed.make_mesh(jax.devices()[:devices]))


def _train(
    config, *, on_device, cached=False, devices=2, seeds=(3,), trainer=None
) -> list[tuple[History, dict]]:
    """Returns the history of each metric and the last variables, for each seed."""
    trainer = trainer or _trainer(config, devices)
    teacher_variables = init_variables(trainer.teacher, jax.random.key(2), _SHAPE)
    teacher_variables = distributed.replicate(teacher_variables, trainer.mesh)
    cache = None
    if cached:
        cache, teacher_variables = cache_teacher_outputs(trainer, teacher_variables), None
    runner = StepRunner(trainer, seeds, teacher_variables, cache, on_device=on_device)
    states = tuple(trainer.init_state(seed) for seed in seeds)
    histories, done = [{} for _ in seeds], 0
    with runner.open(0, _STEPS) as run_steps:
        while done < _STEPS:
            last = min(done + runner.max_chunk, _STEPS)
            states, metrics = run_steps(states, done, last)
            for history, values in zip(histories, metrics, strict=True):
                for name, value in values.items():
                    history.setdefault(name, []).extend(np.atleast_1d(value)[: last - done])
            done = last
    assert all(len(values) == _STEPS for history in histories for values in history.values())
    assert all(state.step == _STEPS for state in states)
    return [(history, state.variables) for history, state in zip(histories, states, strict=True)]


def _assert_same(runs, others):
    # An accelerator may compute the same step with other kernels, which add in another order.
    rounding = 1 if jax.default_backend() == "cpu" else 100
    for (history, variables), (other_history, other_variables) in zip(runs, others, strict=True):
        for name, values in history.items():  # kd of untrained networks, 5e-3, is exact to 1e-6
            np.testing.assert_allclose(
                other_history[name],
                values,
                rtol=1e-5 * rounding,
                atol=1e-6 * rounding,
                err_msg=name,
            )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=1e-4 * rounding, atol=1e-5 * rounding
            ),
            variables,
            other_variables,
        )


@functools.cache
def _streamed(flip):
    return _train(_config(flip=flip), on_device=False)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.accelerator), 4])
def test_steps_on_the_device_give_the_numbers_of_streamed_steps(devices):
    config = _config(padding=2, flip=True, noise=0.1)  # every random number in use
    streamed, on_device = (
        _train(config, on_device=on_device, devices=devices) for on_device in (False, True)
    )
    _assert_same(streamed, on_device)


@pytest.mark.parametrize("on_device", [False, True])
def test_open_says_when_the_first_steps_have_been_compiled(caplog, on_device):
    trainer = _trainer(_config(), devices=1, losses={"ce": {}})
    teacher_variables = distributed.replicate(
        init_variables(trainer.teacher, jax.random.key(2), _SHAPE), trainer.mesh
    )
    runner = StepRunner(trainer, [3], teacher_variables, on_device=on_device)
    states, seen = (trainer.init_state(3),), []

    def compilations():
        messages = [record.getMessage() for record in caplog.records]
        return sum("Finished XLA compilation of jit(global_step)" in text for text in messages)

    with (
        jax.log_compiles(),
        runner.open(0, 2, lambda: seen.append(compilations())) as run_steps,
    ):
        for first in (0, 1):
            states, _ = run_steps(states, first, first + 1)
    assert seen == [1]
    assert compilations() == 1  # the steps take the program that was compiled before


@pytest.mark.slow
def test_networks_trained_as_one_program_equal_those_trained_alone():
    # Each with its first weights, order of the data, flips and noise.
    config = _config(flip=True, noise=0.1)
    trainer = _trainer(config)
    alone = [_train(config, on_device=False, seeds=(seed,), trainer=trainer)[0] for seed in (3, 8)]
    assert alone[0][0]["loss"] != alone[1][0]["loss"]
    for on_device in (False, True):
        _assert_same(alone, _train(config, on_device=on_device, seeds=(3, 8)))


@pytest.mark.parametrize(("on_device", "flip"), [(False, True), (True, False), (True, True)])
def test_cached_teacher_outputs_give_the_losses_of_a_teacher(on_device, flip):
    config = _config(flip=flip)
    _assert_same(_streamed(flip), _train(config, on_device=on_device, cached=True))


def test_examples_are_kept_on_accelerators_that_have_the_memory(monkeypatch):
    monkeypatch.setattr(distributed, "on_accelerator", lambda: True)
    config, num_bytes = _config(), 30 * (16 * 16 * 3 + 4)
    for size, expected in ((num_bytes, 3), (num_bytes - 1, 1)):
        config.data.device_gib = size / 2**30
        assert StepRunner(_trainer(config), (3,)).max_chunk == expected
    monkeypatch.setattr(distributed, "on_accelerator", lambda: False)
    config.data.device_gib = 2.0
    assert StepRunner(_trainer(config), (3,)).max_chunk == 1


def test_memory_left_is_without_all_that_a_step_reads(monkeypatch):
    monkeypatch.setattr(distributed, "on_accelerator", lambda: True)
    config, num_bytes = _config(), 30 * (16 * 16 * 3 + 4)
    plain, with_index = (_trainer(config, losses=losses) for losses in (_LOSSES, {"crd": {}}))
    outputs = Outputs(np.zeros((30, 1, 2), np.float32), np.zeros((30, 1, 5), np.float32), {})
    config.data.device_gib = 1.0
    for used, size in (
        ((plain,), num_bytes),
        ((with_index,), num_bytes + 30 * 4),
        ((plain, outputs), num_bytes + 30 * 7 * 4),
    ):
        assert device_memory_left(*used) == 1.0 - size / 2**30


def test_losses_that_need_it_get_the_index_of_an_example():
    assert _extra_rows(_trainer(_config()), None) == {}
    rows = _extra_rows(_trainer(_config(), losses={"crd": {}}), None)
    np.testing.assert_array_equal(rows["index"], np.arange(30))


def test_compiled_step_is_shared_by_all_seeds():
    trainer = _trainer(_config())
    assert trainer.compiled_step() is trainer.compiled_step()
    assert trainer.compiled_step() is not trainer.compiled_step(networks=2)
    one, other = (
        compiled_eval_step(each.predictor, each.mesh) for each in (trainer, _trainer(_config()))
    )
    assert one is other
