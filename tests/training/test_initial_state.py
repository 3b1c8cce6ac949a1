"""Students that start from the weights of a trained network: `config.init_from`."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn

import amdjax
from amdjax import distributed
from amdjax.checkpoint import read_state
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.export.torch_weights import to_torch_state_dict
from amdjax.models import Outputs
from amdjax.training.initial_state import InitialState, load_initial
from amdjax.training.run import run
from amdjax.training.trainer import build_trainer
from tests.tiny_run import tiny_config
from tests.trained_run import copy


@pytest.fixture
def config(images, trained):
    config = tiny_config(images, ("kd",))
    config.init_from = str(trained / "kd")
    return config


@pytest.fixture(scope="module")
def dataset(images):
    return load_dataset(tiny_config(images, ("kd",)).data)


def _assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def _state(config, dataset, seed=3):
    trainer = build_trainer(config, plan_runs(config)[-1], dataset, distributed.make_mesh())
    return jax.device_get(trainer.init_state(seed, load_initial(config, dataset)))


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_student_starts_from_weights_statistics_and_averages(config, dataset, trained, ema_decay):
    config.ema_decay = ema_decay
    state, saved = _state(config, dataset), read_state(trained / "kd")
    _assert_equal(state.variables, {key: saved[key] for key in ("params", "batch_stats")})
    _assert_equal(state.ema, saved["ema"] if ema_decay else {})
    assert state.step == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_student_starts_from_a_step_of_a_run_and_from_a_file(config, dataset, trained, tmp_path):
    config.init_from = str(trained / "kd" / "checkpoints" / "8")
    saved = read_state(trained / "kd" / "checkpoints" / "8")
    initial = load_initial(config, dataset)
    assert initial.step == 8
    _assert_equal(initial.variables["params"], saved["params"])
    config.init_from = str(tmp_path / "weights.safetensors")
    variables = {key: saved[key] for key in ("params", "batch_stats")}
    safetensors.numpy.save_file(to_torch_state_dict("resnet8", variables), config.init_from)
    initial = load_initial(config, dataset)
    assert (initial.step, initial.ema) == (0, {})
    _assert_equal(initial.variables, variables)


def test_student_without_batch_norm_starts_from_a_file(config, dataset, tmp_path):
    @amdjax.register_model("mine", "a network")
    class Mine(amdjax.models.Model):
        @nn.compact
        def __call__(self, x, train=False, feature_hook=None):
            embedding = x.mean((1, 2))
            logits = nn.Dense(self.num_classes, name="fc")(embedding)
            return Outputs(logits, {"stage1": x}, embedding)

    weights = {"fc.weight": np.ones((4, 3), np.float32), "fc.bias": np.ones(4, np.float32)}
    config.methods, config.student.name = ("scratch",), "mine"
    config.init_from = str(tmp_path / "weights.safetensors")
    safetensors.numpy.save_file(weights, config.init_from)
    state = _state(config, dataset)
    assert state.batch_stats == {}
    _assert_equal(state.params, {"fc": {"kernel": np.ones((3, 4)), "bias": np.ones(4)}})


def test_load_initial_ignores_letter_case_and_separators_of_the_network(config, dataset):
    config.student.name = "ResNet-8"
    assert load_initial(config, dataset).step == 16


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_state_shapes_are_those_of_the_state_before_the_first_step(config, dataset, ema_decay):
    config.ema_decay, config.methods = ema_decay, ("vid+crd",)  # parameters and a state of losses
    trainer = build_trainer(config, plan_runs(config)[-1], dataset, distributed.make_mesh())

    def forms(state):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)

    state = trainer.init_state(seed=3)
    assert state.loss_variables["params"]
    assert state.loss_variables["state"]
    assert forms(trainer.state_shapes) == forms(state)


def test_variables_of_losses_are_kept_where_they_match():
    def tree(size, value, dtype=np.float32):
        return {"call": {"kernel": np.full(size, value, dtype)}}

    saved = {
        "params": {"vid": tree(3, 1), "fitnet": tree(3, 1), "ab": tree(3, 1)},
        "state": {"center": tree(2, 1)},
    }
    drawn = {
        "params": {"vid": tree(3, 0), "fitnet": tree(4, 0), "ft_factor": tree(3, 0)},
        "state": {"center": tree(2, 0), "vid": tree(1, 0)},
    }
    kept = InitialState({}, {}, saved, 0).loss_variables_for(drawn)
    _assert_equal(kept, {**drawn, "state": {**drawn["state"], "center": tree(2, 1)}})
    del drawn["state"]["vid"]
    kept = InitialState({}, {}, saved, 0).loss_variables_for(drawn)
    assert kept["params"]["vid"]["call"]["kernel"][0] == 1
    _assert_equal(InitialState({}, {}, {}, 0).loss_variables_for(drawn), drawn)
    drawn["state"]["center"] = tree(2, 0, np.int32)  # of another version
    kernel = InitialState({}, {}, saved, 0).loss_variables_for(drawn)["state"]["center"]["call"][
        "kernel"
    ]
    assert (kernel[0], kernel.dtype) == (1, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student.name": "wrn_10_1"}, r"the network resnet8, and config\.student\.name is wrn_10"),
        ({"init_from": "/nowhere"}, r"config\.init_from: /nowhere does not exist"),
        ({"init_from": "/proc"}, r"config\.init_from: /proc has no checkpoint"),
    ],
)
def test_load_initial_names_the_mistake(config, dataset, change, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        load_initial(config, dataset)


def test_load_initial_refuses_other_classes(config, dataset, trained, tmp_path):
    other = copy(trained / "kd", tmp_path / "kd")
    for file in (other / "run.json", *other.glob("checkpoints/*/run/metadata")):
        file.write_text(file.read_text().replace("class_3", "zebra"))
    for file in other.glob("checkpoints/*/checksums.json"):
        file.unlink()
    config.init_from = str(other)
    with pytest.raises(UserError, match=r"different classes .*missing: 'zebra'; new: 'class_3'"):
        load_initial(config, dataset)


def test_run_records_where_it_started_and_is_not_resumed_from_elsewhere(
    config, trained, tmp_path, capsys
):
    config.teacher.checkpoint = str(trained / "teacher")
    config.max_steps, config.data.validation = 4, 0.25
    run(config, tmp_path)
    out, err = capsys.readouterr()
    assert f"start from {trained / 'kd'} at step 16" in out
    for network in (f"the network {trained / 'kd'}", f"the teacher {trained / 'teacher'}"):
        assert f"warning: {network} was trained with config.data.validation=0.0 and" in err
    settings = json.loads((tmp_path / "kd" / "run.json").read_text())["settings"]
    assert settings["init_from"] == config.init_from
    config.init_from = ""
    with pytest.raises(UserError, match=f"init_from: saved '{trained / 'kd'}', requested ''") as e:
        run(config, tmp_path)
    hint = f"--config.init_from={tmp_path / 'kd'} makes students start from these weights"
    assert hint in str(e.value)
