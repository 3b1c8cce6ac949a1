"""Settings that exclude each other, found before any data are read."""

import numpy as np
import pytest

from amdjax import distributed
from amdjax.checkpoint import Checkpoints
from amdjax.configs import default
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.pretrained import TeacherSource
from amdjax.training.preflight import check_same_settings, check_settings
from amdjax.training.preflight_warnings import started_students_warnings, teacher_warnings
from amdjax.training.run import run
from tests.trained_run import save_network


def _check(methods=("kd",), **settings):
    config = default.get_config()
    config.methods = methods
    config.update_from_flattened_dict(settings)
    check_settings(config, plan_runs(config))


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        (("kd+amc",), {"batch_size": 33}, r"halves of a batch, but config\.batch_size=33 is odd"),
        (
            ("contrastive",),
            {"batch_size": 36, "accumulate": 4},
            r"config\.batch_size=36 / config\.accumulate=4 is odd",
        ),
    ],
)
def test_check_settings_refuses_odd_batches_for_pairs(methods, settings, message):
    with pytest.raises(UserError, match=message):
        _check(methods, **settings)


def test_check_settings_accepts_odd_batches_for_pairs_that_are_not_computed():
    _check(("kd+amc",), **{"batch_size": 33, "losses.amc.weight": 0.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix.name": "mixpu"}, "unknown mix 'mixpu'; did you mean mixup"),
        ({"optim.name": "sdg"}, "unknown config.optim.name 'sdg'; did you mean sgd"),
        (
            {"methods": ("mlkd",), "augment.strong_policy": "randaugmen"},
            "strong_policy 'randau",
        ),
        ({"methods": ("simkd",), "ema_decay": 0.9}, "trained layers of simkd are part of the pred"),
        ({"augment.pad_mode": "zeros"}, "did you mean zero"),
        ({"student.name": "resnet9"}, "^config.student.name: unknown network 'resnet9'"),
        ({"teacher.name": "resnet9"}, "^config.teacher.name: unknown network 'resnet9'"),
        ({"teacher.name": "wrn_11_1"}, "a wide ResNet needs a depth of 6n"),
        ({"data.folder": "a"}, r"data\.folder=a is not read with config\.data\.name='cifar10'"),
    ],
)
def test_check_settings_names_what_does_not_exist(settings, message):
    with pytest.raises(UserError, match=message):
        _check(**settings)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"data.data_dir": "b", "data.folder": "b", "teacher.outputs": "b"}, True),
        ({"teacher.ensemble": ("c", "d"), "trackers": ("wandb",)}, True),
        ({"teacher.outputs": ""}, False),
        ({"teacher.ensemble": ("a",)}, False),
        ({"losses.kd.temperature": 3.0}, False),
        ({"data.device_gib": 0.0}, False),
    ],
)
def test_check_same_settings_compares_all_but_the_names_of_paths(monkeypatch, settings, same):
    compared = []
    monkeypatch.setattr(distributed, "differing_processes", lambda v: compared.append(v) or [])
    given = {"data.data_dir": "a", "data.folder": "a", "teacher.outputs": "a"}
    for changes in ({}, settings):
        config = default.get_config()
        config.update_from_flattened_dict({**given, "teacher.ensemble": ("a", "b"), **changes})
        check_same_settings(config)
    first, second = compared
    assert (first == second) is same


def test_run_compares_the_settings_before_all_else(monkeypatch, tmp_path):
    monkeypatch.setattr(distributed, "differing_processes", lambda _: [1, 3])
    config = default.get_config()
    config.batch_size = -1
    with pytest.raises(
        UserError, match="process 1, 3 has different settings, or a different version"
    ):
        run(config, tmp_path)


def test_teacher_warnings_names_another_normalisation_and_an_unfinished_run(tmp_path):
    config = default.get_config()
    data = Fingerprint("digits", ("0", "1"), (8, 8, 3), {"train": 64, "test": 8})
    source = TeacherSource(str(tmp_path), "resnet8", 1.0)
    save_network(tmp_path, data, step=6)
    save_network(tmp_path, data, step=8)
    assert teacher_warnings(config, source) == []
    config.augment.std = (1.0, 1.0, 1.0)
    normalised, unfinished = teacher_warnings(
        config, TeacherSource(f"{tmp_path}/checkpoints/6", "resnet8", 1.0)
    )
    assert "was trained with config.augment.std=[0." in normalised
    assert "normalised with [1.0, 1.0, 1.0]" in normalised
    assert unfinished.endswith("its checkpoint is that of step 6 of 8")


def test_started_students_warnings_names_students_of_a_teacher_that_is_trained_on(tmp_path):
    config = default.get_config()
    config.methods = ("kd", "at", "scratch")
    teacher, *_ = specs = plan_runs(config)

    def warnings(total):
        return started_students_warnings(tmp_path, teacher, specs, total)

    def save(name, step):
        with Checkpoints(tmp_path / name, {}) as checkpoints:
            checkpoints.save(step, {"step": np.int32(step)})

    save("teacher", 4)
    save("scratch", 4)
    assert warnings(8) == []
    save("kd", 2)
    assert warnings(4) == []
    (line,) = warnings(8)
    assert line.startswith("kd already learned from an earlier teacher, which is now trained ")
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    assert "from step 0 to 4" in warnings(4)[0]


@pytest.mark.parametrize("description", [{"method": "kd"}, {"settings": {"data": {}, "epochs": 5}}])
def test_teacher_warnings_accepts_a_description_without_settings(tmp_path, description):
    config = default.get_config()
    config.data.validation = 0.1
    with Checkpoints(tmp_path, description) as checkpoints:
        checkpoints.save(4, {"step": np.int32(4)})
    assert teacher_warnings(config, TeacherSource(str(tmp_path), "resnet8", 1.0)) == []
