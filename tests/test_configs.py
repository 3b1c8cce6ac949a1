"""Every recipe builds, names only what exists, and runs a step at a small size."""

import importlib
import json
from pathlib import Path

import jax
import pytest

from amdjax import parallel
from amdjax.config import phases, validate
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import create_model
from amdjax.optim import create_optimizer
from amdjax.train import run
from configs import default
from tests.tiny import shrink

RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


def _recipe(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_names_what_exists(name):
    config = _recipe(name)
    validate(config)
    assert phases(config)
    create_optimizer(config.optim, 10, config.epochs)
    for model in (config.teacher.name, config.student.name):
        create_model(model, 10)
    assert set(config) == set(default.get_config())
    assert set(config.losses) == set(LOSSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "default"])
def test_recipe_runs_a_step(name, images, tmp_path, monkeypatch):
    one_device = parallel.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "make_mesh", lambda: one_device)
    config = shrink(_recipe(name), images)
    config.methods = config.methods[-1:]
    config.max_steps = 1
    run(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["methods"][config.methods[0]]["final"]["step"] == 1


def test_every_loss_and_method_is_described():
    for entry in (*LOSSES.values(), *METHODS.values()):
        assert entry.summary
    used = {loss for method in METHODS.values() for loss in method.losses}
    assert used == set(LOSSES)
