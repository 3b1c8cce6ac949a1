"""Every recipe builds, names only what exists, and runs a step at a small size."""

import importlib
import json
from pathlib import Path

import jax
import pytest

from amdjax import distributed
from amdjax.config import check_resumable, plan_runs, validate, write_run_spec
from amdjax.data.augment import create_augment
from amdjax.data.mixing import create_mix
from amdjax.data.registry import DATASETS
from amdjax.errors import UserError
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import create_model
from amdjax.training.optimizer import create_optimizer
from amdjax.training.preflight import check_shapes
from amdjax.training.run import run
from configs import default
from tests.tiny_run import shrink

RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


def _module(name):
    return importlib.import_module(f"configs.{name}")


def _recipe(name, *setup):
    return _module(name).get_config(*setup)


def _setups():
    for name in RECIPES:
        yield (name,)
        yield from ((name, setup) for setup in getattr(_module(name), "SETUPS", ()))


@pytest.mark.parametrize("recipe", list(_setups()), ids=":".join)
def test_recipe_names_what_exists(recipe):
    config = _recipe(*recipe)
    validate(config)
    plan = plan_runs(config)
    assert len({phase.name for phase in plan}) == len(plan)
    create_optimizer(config.optim, 10, config.epochs)
    create_augment(config.augment)
    create_mix(config.mix, lambda x: x)
    check_shapes(config, plan[-1:], 10, (32, 32, 3))
    assert config.data.name in DATASETS
    for model in (config.teacher.name, config.student.name):
        create_model(model, 10)
    assert set(config) == set(default.get_config())
    assert set(config.losses) == set(LOSSES)


def test_an_unknown_setup_is_named():
    with pytest.raises(UserError, match=r"unknown set-up of cifar10\.py 'e'; known: a, b, c, d"):
        _recipe("cifar10", "e")


def test_a_sweep_repeats_what_it_concerns():
    config = _recipe("figure8")
    names = [phase.name for phase in plan_runs(config)]
    values = ("1000.0", "3000.0", "5000.0", "7000.0", "9000.0")
    assert names == ["teacher", "kd", *(f"amd_g-weight={value}" for value in values)]
    weights = [phase.losses["am"]["weight"] for phase in plan_runs(config)[2:]]
    assert weights == [float(value) for value in values]
    assert [phase.swept for phase in plan_runs(config)] == ["", "", *["losses.am.weight"] * 5]
    config.sweep.key = "losses.am.margn"
    with pytest.raises(UserError, match=r"config\.sweep\.key 'losses.am.margn'; did you mean los"):
        plan_runs(config)
    config.sweep.key = "losses.am.global_weight"
    with pytest.raises(UserError, match=r"the method amd_g sets losses\.am\.global_weight itself"):
        plan_runs(config)
    config.sweep.key = "losses.am.weight"
    config.sweep.choices = ("much",)
    with pytest.raises(UserError, match=r"'much' is no value of losses\.am\.weight"):
        plan_runs(config)
    config.sweep.choices = ()
    with pytest.raises(UserError, match="choices is empty"):
        plan_runs(config)


def test_what_was_swept_is_written_down_and_not_compared(tmp_path):
    config = _recipe("figure9")
    _, kd, *swept = plan_runs(config)
    for name in ("kd", "swept"):
        (tmp_path / name).mkdir()
    write_run_spec(config, kd, tmp_path / "kd")
    write_run_spec(config, swept[0], tmp_path / "swept")
    recipe = json.loads((tmp_path / "swept" / "recipe.json").read_text())
    assert recipe.pop("swept") == "losses.am.margin"
    assert recipe.keys() == json.loads((tmp_path / "kd" / "recipe.json").read_text()).keys()
    check_resumable(config, swept[0], tmp_path / "swept")
    with pytest.raises(UserError, match=r"losses\.am\.margin: 1\.1 there, 1\.35 now\. Choose"):
        check_resumable(config, swept[1], tmp_path / "swept")


# The others differ from these in names and numbers alone.
RUN = ("amc", "cifar10", "figure5", "folder", "imagenet", "table10", "tiny_imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_recipe_runs_a_step(name, images, tmp_path, monkeypatch):
    one_device = distributed.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(distributed, "make_mesh", lambda: one_device)
    config = shrink(_recipe(name), images)
    config.methods = config.methods[-1:]
    config.sweep.choices = config.sweep.choices[:1]
    config.max_steps = 1
    run(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["methods"].values()
    assert row["final"]["step"] == 1


def test_every_loss_and_method_is_described():
    for entry in (*LOSSES.values(), *METHODS.values()):
        assert entry.summary
    used = {loss for method in METHODS.values() for loss in method.losses}
    assert used == set(LOSSES)
