"""The plan of the runs of an experiment."""

import pytest

from amdjax.configs import default, figure8
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.methods import METHODS, Method


def test_plan_runs_repeats_the_methods_that_a_sweep_concerns():
    config = figure8.get_config()
    names = [spec.name for spec in plan_runs(config)]
    values = ("1000.0", "3000.0", "5000.0", "7000.0", "9000.0")
    assert names == ["teacher", "kd", *(f"amd_g-am.weight={value}" for value in values)]
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


def test_plan_runs_gives_the_schedule_of_cross_entropy_to_the_students_alone():
    config = default.get_config()
    config.methods = ("kd",)
    schedule = {"ramp_up_epochs": 30, "ramp": "linear", "end_fraction": 0.25, "end_weight": 0.5}
    config.losses.ce.update(schedule | {"label_smoothing": 0.1})
    teacher, student = (spec.losses["ce"] for spec in plan_runs(config))
    assert student.items() >= (schedule | {"label_smoothing": 0.1}).items()
    assert teacher["weight"] == teacher["end_fraction"] == 1.0
    assert teacher["ramp_up_epochs"] == 0 and teacher["label_smoothing"] == 0.1


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
    message = r"kd-kd\.temperature=0\.0: config\.losses\.kd\.temperature must be above 0, not 0\.0"
    with pytest.raises(UserError, match=message):
        plan_runs(config)
    monkeypatch.setitem(METHODS, "mine", Method({"ce": {}, "at": {"weight": -5.0}}, "a method"))
    config.methods, config.sweep.key = ("mine",), ""
    message = r"mine: config\.losses\.at\.weight must be at least 0, not -5\.0"
    with pytest.raises(UserError, match=message):
        plan_runs(config)


def test_plan_runs_has_the_names_of_networks_in_the_registry():
    config = default.get_config()
    config.teacher.name, config.student.name = "WRN-22-4", "ResNet-8x4"
    assert [spec.model for spec in plan_runs(config)] == ["wrn_22_4", "resnet8x4"]
