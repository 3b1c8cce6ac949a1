"""Students that learn from several teachers."""

import json

import numpy as np
import pytest

from amdjax.config import validate
from amdjax.configs import default
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.pretrained import load_given_teacher, teacher_name, teacher_sources
from amdjax.training.preflight import check_settings, check_shapes
from amdjax.training.run import run
from amdjax.workdir import load_run, restore_all, restore_imported_teacher
from tests.tiny_run import tiny_config


def _config(*paths, **settings):
    config = default.get_config()
    config.methods = ("kd",)
    config.teacher.ensemble = tuple(map(str, paths))
    config.update_from_flattened_dict({f"teacher.{key}": value for key, value in settings.items()})
    return config


@pytest.mark.parametrize(
    ("paths", "settings", "message"),
    [
        (
            "a",
            {},
            r"ensemble names one network; name several, or use config\.teacher\.checkpoint=a",
        ),
        (
            "ab",
            {"checkpoint": "c"},
            r"checkpoint and config\.teacher\.ensemble both give a teacher",
        ),
        ("ab", {"outputs": "c"}, r"ensemble and config\.teacher\.outputs both give a teacher"),
        ("ab", {"ensemble_models": ("resnet8",)}, "ensemble_models has 1 entries and .* 2: give"),
        ("ab", {"ensemble_weights": (1, 2, 3)}, "ensemble_weights has 3 entries and .* 2: give"),
        ("", {"ensemble_weights": (1, 2)}, "ensemble_weights has 2 entries and .* 0: give"),
        ("ab", {"ensemble_weights": (1, 0)}, "ensemble_weights must be above 0, not 0"),
        ("ab", {"ensemble_weights": (1, "x")}, "ensemble_weights must be numbers, not 'x'"),
    ],
)
def test_validate_refuses_an_ensemble_that_is_not_complete(paths, settings, message):
    with pytest.raises(UserError, match=message):
        validate(_config(*paths, **settings))


def test_teacher_sources_are_one_network_or_the_members_of_an_ensemble(trained):
    config = default.get_config()
    assert teacher_sources(config.teacher) == (("", "wrn_16_3", 1.0),)
    assert teacher_name(config.teacher) == "wrn_16_3"
    paths = (str(trained / "teacher"), str(trained / "kd"))
    config = _config(*paths, ensemble_weights=(3, 1))
    assert teacher_sources(config.teacher) == (
        (paths[0], "wrn_10_1", 0.75),
        (paths[1], "resnet8", 0.25),
    )
    assert teacher_name(config.teacher) == "wrn_10_1 + resnet8"


def test_members_that_cannot_be_read_are_named(trained, tmp_path):
    config = _config(trained / "teacher", tmp_path / "b.npz")
    with pytest.raises(UserError, match=r"b\.npz is not the folder of a run .*\.ensemble_models"):
        check_settings(config, plan_runs(config))
    config.teacher.ensemble_models = ("wrn_10_1", "resnet8")
    with pytest.raises(UserError, match=r"config\.teacher\.ensemble: .*b\.npz does not exist"):
        load_given_teacher(config.teacher, 4)


def test_eskd_refuses_an_ensemble():
    config = _config("a", "b")
    config.methods = ("eskd",)
    with pytest.raises(UserError, match=r"config\.teacher\.ensemble gives one"):
        plan_runs(config)


@pytest.mark.parametrize("cached", [False, True])
def test_losses_of_more_than_logits_are_refused(cached):
    config = _config("a", "b", ensemble_models=("wrn_10_1", "resnet8"), cached=cached)
    config.student.name = "resnet8"

    def check(method):
        config.methods = (method,)
        check_shapes(config, plan_runs(config), 4, (16, 16, 3))

    check("kd+dist")
    with pytest.raises(UserError, match=r"amd_gl: .*unknown feature of the teacher 'stage1'"):
        check("amd_gl")
    with pytest.raises(UserError, match=r"rkd: .*the teacher has no embedding"):
        check("rkd")
    with pytest.raises(UserError, match="simkd: "):
        check("simkd")


@pytest.mark.slow
def test_run_learns_from_an_ensemble(images, trained, tmp_path, capsys):
    config = tiny_config(images, ("kd",))
    paths = [str(trained / name) for name in ("teacher", "kd")]
    config.teacher.ensemble, config.teacher.ensemble_weights = tuple(paths), (3.0, 1.0)
    config.teacher.cached, config.augment.padding = True, 0
    config.max_steps = 4
    run(config, tmp_path)

    dataset = load_dataset(config.data)
    pixels, labels = dataset.test.arrays()
    first, second = (np.asarray(load_run(path).logits(pixels)) for path in paths)
    teacher = restore_imported_teacher(config, 4)
    np.testing.assert_allclose(
        teacher.logits(pixels), 0.75 * first + 0.25 * second, rtol=1e-4, atol=1e-5
    )
    out = capsys.readouterr().out
    assert "teacher wrn_10_1 + resnet8 (" in out
    for subject, logits in (
        (f"teacher {paths[0]}", first),
        (f"teacher {paths[1]}", second),
        ("mean of the 2 teachers", teacher.logits(pixels)),
    ):
        accuracy = np.mean(np.argmax(logits, -1) == labels)
        assert f"{subject}: accuracy on the test split {accuracy:.2%}\n" in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["teacher"]["model"] == "wrn_10_1 + resnet8"
    assert results["teacher"]["final"]["accuracy"] == accuracy

    settings = json.loads((tmp_path / "kd/run.json").read_text())["settings"]
    assert settings["teacher"] == {
        "ensemble": [
            {"checkpoint": paths[0], "model": "wrn_10_1", "weight": 0.75},
            {"checkpoint": paths[1], "model": "resnet8", "weight": 0.25},
        ]
    }
    networks, notes = restore_all(tmp_path, config, dataset.fingerprint)
    assert [network.name for network in networks] == ["kd"]
    assert "teacher: skipped: an ensemble has no features to show" in notes
    config.teacher.ensemble_weights = ()
    with pytest.raises(UserError, match=r"trained with a different config: teacher\.ensemble"):
        run(config, tmp_path)
