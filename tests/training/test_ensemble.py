"""Students that learn from several teachers."""

import json

import jax
import numpy as np
import pytest

from amdjax.config import validate
from amdjax.configs import default
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.losses import LOSSES, build_objective
from amdjax.models import create_model
from amdjax.pretrained import create_teacher, load_given_teacher, teacher_name, teacher_sources
from amdjax.trained import load_run, restore_all, restore_given_teacher
from amdjax.training.dummy_outputs import dummy_inputs, output_shapes
from amdjax.training.preflight import check_settings, check_shapes
from amdjax.training.run import run
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
        ("ab", {"ensemble": (1, 2)}, r"ensemble must be paths, not 1; write \./1 for a folder"),
        ("ab", {"ensemble_models": ("resnet8", 2)}, "_models must be names of networks, not 2"),
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


def test_teacher_sources_have_the_names_of_networks_in_the_registry():
    config = _config()
    config.teacher.name = "WRN-16-3"
    assert teacher_name(config.teacher) == "wrn_16_3"
    config = _config("a", "b", ensemble_models=("ResNet-20", "VGG-8"))
    assert teacher_name(config.teacher) == "resnet20 + vgg8"


def test_members_that_cannot_be_read_are_named(trained, tmp_path):
    config = _config(trained / "teacher", tmp_path / "b.npz")
    with pytest.raises(UserError, match=r"b\.npz is not the folder of a run .*\.ensemble_models"):
        check_settings(config, plan_runs(config))
    config.teacher.ensemble_models = ("wrn_10_1", "resnet8")
    with pytest.raises(UserError, match=r"config\.teacher\.ensemble: .*b\.npz does not exist"):
        load_given_teacher(config.teacher, load_run(trained / "kd").data)


def test_eskd_refuses_an_ensemble():
    config = _config("a", "b")
    config.methods = ("eskd",)
    with pytest.raises(UserError, match=r"config\.teacher\.ensemble gives one"):
        plan_runs(config)


def _check(method, *models, student="resnet8", **settings):
    config = _config("a", "b", ensemble_models=models)
    config.update_from_flattened_dict(settings)
    config.student.name, config.methods = student, (method,)
    specs = plan_runs(config)
    check_settings(config, specs)
    check_shapes(config, specs, 4, (16, 16, 3))


def test_all_losses_but_those_of_the_classifier_read_the_outputs_of_an_ensemble():
    reading = {name: spec for name, spec in LOSSES.items() if spec.needs_teacher}
    joined = {
        name: {"adapter": True} if "adapter" in spec.defaults() else {}
        for name, spec in reading.items()
        if "teacher.class_weights" not in spec.inputs
    }
    assert reading.keys() - joined.keys() == {"simkd", "wkd_l"}
    objective = build_objective(joined)
    config = _config("a", "b", ensemble_models=("wrn_10_1", "vgg8"))

    def compute():
        networks = create_model("resnet8", 4), create_teacher(config.teacher, 4)
        inputs = dummy_inputs(*(output_shapes(one, (32, 32, 3)) for one in networks))
        return objective.apply(objective.init(jax.random.key(0), inputs), inputs)[1]

    assert jax.eval_shape(compute).keys() == joined.keys()


def test_losses_of_the_classifier_refuse_an_ensemble():
    for method in ("simkd", "wkd_l"):
        with pytest.raises(UserError, match="the teacher has no class_weights"):
            _check(method, "wrn_10_1", "resnet8")


def test_losses_of_features_that_members_do_not_share_name_the_members():
    message = (
        r"amd_gl: the loss am reads stage1 of the teachers, which is joined only from maps of one "
        r"size: wrn_10_1 has 16x16, mobilenet_v2_half has 8x8; name other layers"
    )
    with pytest.raises(UserError, match=message):
        _check("amd_gl", "wrn_10_1", "mobilenet_v2_half")
    layer = {"losses.sp.features": ("stage4",)}
    with pytest.raises(UserError, match=r"wrn_10_1 has no stage4, vgg8 has 2x2; name other"):
        _check("sp", "wrn_10_1", "vgg8", student="vgg8", **layer)
    with pytest.raises(
        UserError, match=r"unknown feature of the teacher 'stage4'; the teacher has"
    ):
        _check("sp", "wrn_10_1", "wrn_10_2", student="vgg8", **layer)
    _check("kd+rkd", "wrn_10_1", "mobilenet_v2_half")


@pytest.mark.slow
def test_run_learns_from_an_ensemble(images, trained, tmp_path, capsys):
    config = tiny_config(images, ("kd+at",))
    paths = [str(trained / name) for name in ("teacher", "kd")]
    config.teacher.ensemble, config.teacher.ensemble_weights = tuple(paths), (3.0, 1.0)
    config.augment.padding, config.augment.flip = 0, False
    config.max_steps = 9  # more images than the training split has, so that outputs are cached
    run(config, tmp_path)

    dataset = load_dataset(config.data)
    pixels, labels = dataset.test.arrays()
    first, second = (np.asarray(load_run(path).logits(pixels)) for path in paths)
    teacher = restore_given_teacher(config, dataset.fingerprint)
    np.testing.assert_allclose(
        teacher.logits(pixels), 0.75 * first + 0.25 * second, rtol=1e-4, atol=1e-5
    )
    out, err = capsys.readouterr()
    assert err.count("computing the teacher's outputs for 64 images, once") == 1
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

    settings = json.loads((tmp_path / "kd+at/run.json").read_text())["settings"]
    assert settings["teacher"] == {
        "ensemble": [
            {"checkpoint": paths[0], "model": "wrn_10_1", "weight": 0.75},
            {"checkpoint": paths[1], "model": "resnet8", "weight": 0.25},
        ]
    }
    networks, notes = restore_all(tmp_path, config, dataset.fingerprint)
    assert [network.name for network in networks] == ["kd+at"]
    assert "teacher: skipped: the report shows single networks, not ensembles" in notes
    config.teacher.ensemble_weights = ()
    with pytest.raises(UserError, match=r"trained with a different config: teacher\.ensemble"):
        run(config, tmp_path)
