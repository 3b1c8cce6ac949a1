"""Every recipe builds, names only what exists, and runs a step at a small size."""

import importlib
import json
from pathlib import Path

import pytest

from amdjax.config import disabled_by, flat_settings, validate
from amdjax.configs import cifar100, default
from amdjax.data.registry import DATASETS
from amdjax.errors import UserError
from amdjax.experiment import ignored_settings, optim_of, plan_runs
from amdjax.losses import LOSSES
from amdjax.methods import METHODS, Method
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


def test_plan_runs_repeats_the_methods_that_a_sweep_concerns():
    config = _recipe("figure8")
    names = [spec.name for spec in plan_runs(config)]
    values = ("1000.0", "3000.0", "5000.0", "7000.0", "9000.0")
    assert names == ["teacher", "kd", *(f"amd_g-weight={value}" for value in values)]
    weights = [spec.losses["am"]["weight"] for spec in plan_runs(config)[2:]]
    assert weights == [float(value) for value in values]
    assert [spec.sweep_key for spec in plan_runs(config)] == ["", "", *["losses.am.weight"] * 5]
    config.sweep.key = "losses.am.margn"
    with pytest.raises(UserError, match=r"config\.sweep\.key 'losses.am.margn'; did you mean los"):
        plan_runs(config)
    config.sweep.key = "optim.learning_rate"
    with pytest.raises(
        UserError, match=r"'optim.learning_rate' is not a setting of a loss.*others"
    ):
        plan_runs(config)
    config.sweep.key = "losses.am.global_weight"
    with pytest.raises(UserError, match=r"the method amd_g sets losses\.am\.global_weight itself"):
        plan_runs(config)
    config.sweep.key = "losses.am.weight"
    config.sweep.choices = ("much",)
    with pytest.raises(UserError, match=r"'much' is not a value of losses\.am\.weight"):
        plan_runs(config)
    config.sweep.choices = ()
    with pytest.raises(UserError, match="choices is empty"):
        plan_runs(config)


@pytest.mark.parametrize(
    ("method", "choices", "message"),
    [
        ("scratch", (0.5,), r"scratch sets losses\.ce\.weight itself, to 1\.0"),
        ("scratch", (1.0, 0.5), r"scratch sets losses\.ce\.weight itself, to 1\.0"),
        ("kd", (2.0, 2.0), r"config\.sweep\.choices has 2\.0 twice"),
        ("kd", (2.0, 0.5, 2), r"config\.sweep\.choices has 2 twice"),
    ],
)
def test_plan_runs_refuses_choices_without_an_effect(method, choices, message):
    config = default.get_config()
    config.methods, config.sweep.key = (method,), "losses.ce.weight"
    config.sweep.choices = choices
    with pytest.raises(UserError, match=message):
        plan_runs(config)


def test_plan_runs_names_a_swept_value_and_a_method_out_of_range(monkeypatch):
    config = default.get_config()
    config.methods, config.sweep.key = ("kd",), "losses.kd.temperature"
    config.sweep.choices = (4.0, 0.0)
    message = r"kd-temperature=0\.0: config\.losses\.kd\.temperature must be above 0, not 0\.0"
    with pytest.raises(UserError, match=message):
        plan_runs(config)
    monkeypatch.setitem(METHODS, "mine", Method({"ce": {}, "at": {"weight": -5.0}}, "a method"))
    config.methods, config.sweep.key = ("mine",), ""
    message = r"mine: config\.losses\.at\.weight must be at least 0, not -5\.0"
    with pytest.raises(UserError, match=message):
        plan_runs(config)


@pytest.mark.parametrize(
    ("methods", "settings", "sentences"),
    [
        (
            ("kd_ls",),
            {"kd.temperature": 8.0},
            ["config.losses.kd.temperature=8.0 has no effect: kd_ls sets it to 2.0"],
        ),
        (
            ("scratch", "at"),
            {"ce.weight": 0.5, "ce.label_smoothing": 0.1},
            [
                "config.losses.ce.weight=0.5 has no effect: scratch sets it to 1.0, at sets it to "
                "1.0"
            ],
        ),
        (("scratch", "kd"), {"ce.weight": 0.5}, []),  # kd uses it
        (
            ("scratch",),
            {"ce.weight": 1.0, "kd.temperature": 8.0},
            [
                "config.losses.kd.temperature=8.0 has no effect: no method of config.methods has "
                "the loss kd"
            ],
        ),
        (("simkd",), {"ce.label_smoothing": 0.1}, []),  # the teacher has cross-entropy
        (("kd_ls",), {}, []),
    ],
)
def test_ignored_settings_are_those_that_every_method_sets_itself(methods, settings, sentences):
    config = default.get_config()
    config.methods = methods
    config.losses.update_from_flattened_dict(settings)
    names = ["epochs", *(f"losses.{name}" for name in settings)]
    assert ignored_settings(config, plan_runs(config), names) == sentences


def test_ignored_settings_leaves_out_a_swept_one():
    config = default.get_config()
    config.methods, config.losses.kd.temperature = ("kd",), 8.0
    config.sweep.key, config.sweep.choices = "losses.kd.temperature", (1.0, 2.0)
    assert ignored_settings(config, plan_runs(config), ["losses.kd.temperature"]) == []


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({"mix.alpha": 1.0}, ["config.mix.alpha=1.0 has no effect with config.mix.name='none'"]),
        ({"methods": ("kd",), "mix.name": "mixup", "mix.alpha": 1.0}, []),
        (
            {"optim.beta1_end": 0.6, "optim.end_learning_rate": 0.1},
            [
                "config.optim.beta1_end=0.6 has no effect with config.optim.name='sgd'",
                "config.optim.end_learning_rate=0.1 has no effect with config.optim.schedule="
                "'step'",
            ],
        ),
        (
            {"optim.name": "adam", "optim.beta1_end": 0.6, "optim.beta2": 0.9},
            ["config.optim.beta1_end=0.6 has no effect with config.optim.ramp_down_epochs=0.0"],
        ),
        ({"optim.name": "mine", "optim.momentum": 0.5, "optim.beta2": 0.9}, []),  # may read both
        (
            {"teacher.early_fraction": 0.5},
            ["config.teacher.early_fraction=0.5 has no effect: it is a setting of eskd"],
        ),
        ({"methods": ("eskd",), "teacher.early_fraction": 0.5}, []),
        ({"teacher.learning_rate": 0.2}, []),
        (
            {"methods": ("scratch",), "teacher.learning_rate": 0.2},
            ["config.teacher.learning_rate=0.2 has no effect: no teacher is trained"],
        ),
        (
            {"methods": ("scratch",), "teacher.checkpoint": "gone", "teacher.cached": False},
            [
                f"config.teacher.{setting} has no effect: no method of config.methods learns from "
                "a teacher"
                for setting in ("checkpoint='gone'", "cached=False")
            ],
        ),
        (
            {"teacher.outputs": "a.npz", "teacher.name": "wrn_40_2", "teacher.cached": False},
            [
                f"config.teacher.{setting} has no effect with config.teacher.outputs='a.npz'"
                for setting in ("name='wrn_40_2'", "cached=False")
            ],
        ),
        (
            {"teacher.cached": True, "augment.padding": 4},
            ["config.teacher.cached=True has no effect with config.augment.padding=4"],
        ),
        (
            {"methods": ("kd",), "losses.kd.end_weight": 0.5},
            ["config.losses.kd.end_weight=0.5 has no effect with config.losses.kd.end_fraction=1"],
        ),
        (
            {"methods": ("kd",), "losses.kd.end_weight": 0.5, "losses.kd.end_fraction": 0.5},
            [],
        ),
        (
            {"methods": ("kd",), "losses.kd.weight": 0.0, "losses.kd.temperature": 2.0},
            [
                "config.losses.kd.temperature=2.0 has no effect with config.losses.kd.weight=0",
            ],
        ),
        (
            {"sweep.choices": (1.1, 1.35)},
            ["config.sweep.choices=(1.1, 1.35) has no effect with config.sweep.key=''"],
        ),
        ({"sweep.key": "losses.am.margin", "sweep.choices": (1.1, 1.35)}, []),
        (
            {"methods": ("kd",), "sweep.key": "losses.am.margin", "sweep.choices": (1.1,)},
            [
                f"config.{setting} has no effect: no method of config.methods reads "
                "config.losses.am.margin"
                for setting in ("sweep.key='losses.am.margin'", "sweep.choices=(1.1,)")
            ],
        ),
        (
            {"augment.randaugment.num_ops": 3, "augment.strong_policy": "trivialaugment"},
            [
                "config.augment.randaugment.num_ops=3 has no effect with config.augment.policy="
                "'none'",
                "config.augment.strong_policy='trivialaugment' has no effect: no method of "
                "config.methods compares two views of each image",
            ],
        ),
        (
            {
                "methods": ("mlkd",),
                "augment.randaugment.num_ops": 3,
                "augment.strong_policy": "trivialaugment",
            },
            [
                "config.augment.randaugment.num_ops=3 has no effect with config.augment.policy="
                "'none' and config.augment.strong_policy='trivialaugment'"
            ],
        ),
        ({"methods": ("mlkd",), "augment.randaugment.num_ops": 3}, []),
        ({"augment.policy": "randaugment", "augment.randaugment.num_ops": 3}, []),
    ],
)
def test_ignored_settings_are_those_that_no_run_reads(settings, sentences):
    config = default.get_config()
    config.update_from_flattened_dict(settings)
    assert ignored_settings(config, plan_runs(config), settings) == sentences


def test_disabled_by_leaves_other_settings_alone():
    settings = flat_settings(default.get_config())
    assert {key for key in settings if disabled_by(key, settings)} == {
        *("data.validation_seed", "augment.pad_mode", "optim.end_learning_rate", "sweep.choices"),
        *("mix.alpha", "mix.probability", "mix.layer", "mix.moex_lam", "mix.teacher_sees_mixed"),
        *("optim.beta1", "optim.beta1_end", "optim.beta2"),
    }


def test_plan_runs_has_the_names_of_networks_in_the_registry():
    config = default.get_config()
    config.teacher.name, config.student.name = "WRN-22-4", "ResNet-8x4"
    assert [spec.model for spec in plan_runs(config)] == ["wrn_22_4", "resnet8x4"]


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
