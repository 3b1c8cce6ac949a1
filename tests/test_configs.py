"""Every recipe builds, names only what exists, and runs a step at a small size."""

import importlib
import json
from pathlib import Path

import pytest

from amdjax.config import validate
from amdjax.configs import cifar100, default
from amdjax.data.registry import DATASETS
from amdjax.errors import UserError
from amdjax.experiment import optim_of, plan_runs
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import create_model
from amdjax.training.preflight import check_settings, check_shapes
from amdjax.training.run import run
from tests.tiny_run import shrink

RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py"))


def _module(name):
    return importlib.import_module(f"amdjax.configs.{name}")


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
    specs = plan_runs(config)
    assert len({spec.name for spec in specs}) == len(specs)
    check_settings(config, specs)
    check_shapes(config, specs[-1:], 10, (32, 32, 3))
    assert config.data.name in DATASETS
    for model in (config.teacher.name, config.student.name):
        create_model(model, 10)
    assert set(config) == set(default.get_config())
    assert set(config.losses) == set(LOSSES)


@pytest.mark.parametrize(
    ("recipe", "setup", "known"),
    [("cifar10", "e", "a, b, c, d"), ("figure5", "c", "a, b"), ("figure9", "e", "cifar10-a, ")],
)
def test_recipe_names_an_unknown_setup(recipe, setup, known):
    message = rf"unknown set-up of {recipe}\.py '{setup}'; known: {known}"
    with pytest.raises(UserError, match=message):
        _recipe(recipe, setup)


def test_cifar100_teachers_have_the_learning_rate_of_large_networks():
    config = cifar100.get_config("resnet32x4-shufflenet_v1")
    teacher, student, *_ = plan_runs(config)
    assert optim_of(config, teacher).learning_rate == 0.05
    assert optim_of(config, student).learning_rate == 0.01
    config.teacher.learning_rate = 0.0
    assert optim_of(config, teacher).learning_rate == 0.01


@pytest.mark.parametrize("setup", cifar100.SETUPS)
def test_cifar100_losses_compare_the_layers_of_every_pair(setup):
    config = cifar100.get_config(setup)
    config.methods = ("at+sp+vid+fitnet+amd_gl",)
    check_shapes(config, plan_runs(config)[-1:], 100, (32, 32, 3))


def test_cifar100_fsp_begins_with_the_whole_first_block_of_a_vgg():
    fsp = cifar100.get_config("vgg13-vgg8").losses.fsp
    assert fsp.features[:2] == fsp.teacher_features[:2] == ("stage1", "stage2")
    fsp = cifar100.get_config("cifar_resnet50-vgg8").losses.fsp
    assert (fsp.features[0], fsp.teacher_features[0]) == ("stage1", "stem")


# The others differ from these in names and numbers alone.
RUN = ("amc", "cifar10", "figure5", "folder", "imagenet", "table10", "tiny_imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_recipe_runs_a_step(name, images, trained, tmp_path, one_device):
    config = shrink(_recipe(name), images)
    config.methods = config.methods[-1:]
    config.teacher.checkpoint = str(trained / "teacher")  # to compile the student alone
    config.sweep.choices = config.sweep.choices[:1]
    config.max_steps = 1
    run(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["methods"].values()
    assert row["final"]["step"] == 1


def test_every_loss_and_method_has_a_summary():
    for entry in (*LOSSES.values(), *METHODS.values()):
        assert entry.summary
    used = {loss for method in METHODS.values() for loss in method.losses}
    assert used == set(LOSSES)
