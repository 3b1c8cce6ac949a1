"""Settings without an effect are named, with the reason."""

import pytest

from amdjax.configs import default
from amdjax.experiment import plan_runs
from amdjax.training.ignored_settings import ignored_settings


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


def test_ignored_settings_names_a_swept_one():
    config = default.get_config()
    config.methods, config.losses.kd.temperature = ("kd",), 8.0
    config.sweep.key, config.sweep.choices = "losses.kd.temperature", (1.0, 2.0)
    assert ignored_settings(config, plan_runs(config), ["losses.kd.temperature"]) == [
        "config.losses.kd.temperature=8.0 has no effect: config.sweep sets it"
    ]


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
