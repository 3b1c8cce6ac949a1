"""What `build_trainer` hands from a config to the train step, the optimiser and the predictor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.data.policies import register_augmentation
from amdjax.experiment import RunSpec
from amdjax.training import trainer
from amdjax.training.trainer import Trainer, build_trainer
from tests.make_data import random_images


def _build(config: Any, losses: dict[str, dict]) -> Trainer:
    source = InMemorySource(random_images(16, 8, 8, 3), np.arange(16, dtype=np.int32) % 4)
    dataset = Dataset("random", ("a", "b", "c", "d"), (8, 8, 3), source, source)
    spec = RunSpec(name="x", method="x", model="resnet8", losses=losses, seed=0, teacher="teacher")
    return build_trainer(config, spec, dataset, distributed.make_mesh(jax.devices()[:1]))


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the train step that is made last."""
    kept: dict[str, Any] = {}
    monkeypatch.setattr(trainer, "make_train_step", lambda **words: kept.update(words))
    return kept


def _config(**settings: Any) -> Any:
    config = default.get_config()
    config.batch_size, config.teacher.name = 8, "wrn_10_1"
    config.update_from_flattened_dict(settings)
    return config


def test_train_step_has_the_settings_of_the_config(arguments):
    config = _config(
        **{
            "accumulate": 2,
            "ema_decay": 0.9,
            "mix.name": "mixup",
            "mix.teacher_sees_mixed": False,
            "dtype": "bfloat16",
            "sync_batch_norm": False,
        }
    )
    built = _build(config, {"ce": {}, "kd": {}})
    assert arguments["accumulate"] == 2
    assert arguments["ema_decay"] == 0.9
    assert arguments["mix"] is not None
    assert arguments["teacher_sees_mixed"] is False
    assert arguments["strong_augment"] is None
    assert arguments["num_examples"] == 16
    for network in (arguments["student"], arguments["teacher"], built.predictor.network):
        assert network.dtype == jnp.bfloat16
        assert network.axis_name is None


def test_train_step_averages_batch_statistics_over_devices_by_default(arguments):
    _build(_config(), {"ce": {}, "kd": {}})
    assert arguments["student"].axis_name == distributed.BATCH_AXIS
    assert arguments["student"].dtype == jnp.float32
    assert arguments["teacher_sees_mixed"] is True
    assert arguments["mix"] is None


def test_second_view_is_that_of_the_strong_policy(arguments):
    register_augmentation("invert", "255 - x")(lambda keys, images: 255 - images)
    config = _config(**{"augment.mean": (0.0,) * 3, "augment.std": (1.0,) * 3})
    config.augment.strong_policy = "invert"
    _build(config, {"ce": {}, "ce_strong": {}})
    images = random_images(2, 8, 8, 3)
    keys = jax.random.split(jax.random.key(0), 2)
    first = arguments["augment"](keys, images)
    second = arguments["strong_augment"](keys, images)
    np.testing.assert_allclose(first, images / 255.0, rtol=1e-6)
    np.testing.assert_allclose(second, (255 - images) / 255.0, rtol=1e-6)


def test_evaluation_computes_no_more_images_at_once_than_training(monkeypatch):
    built = _build(_config(accumulate=4), {"ce": {}})
    sizes = []

    def evaluate(predictor, variables, source, batch_size, mesh):
        sizes.append(batch_size)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    built.evaluate(built.init_state(0), built.dataset.test)
    assert sizes == [2]
