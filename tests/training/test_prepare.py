"""Data that are prepared without training, and warnings before training."""

import pytest

from amdjax.configs import default
from amdjax.data import Fingerprint
from amdjax.data.registry import DatasetSpec
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.run_settings import describe_run
from amdjax.training.inputs import load_inputs
from amdjax.training.preflight_warnings import (
    long_ramp_warnings,
    seen_validation_warnings,
    small_data_warnings,
)
from amdjax.training.run import prepare
from amdjax.weight_sources import describe_source
from tests.tiny_run import command, finish, tiny_config


def test_prepare_only_prepares_the_data_and_leaves_the_workdir_alone(images, tmp_path):
    workdir, prepared = tmp_path / "runs/x", tmp_path / "prepared"
    words = command(images, workdir, "--prepare_only", f"--config.data.data_dir={prepared}")
    code, out, err = finish(words)
    assert code == 0
    assert "64 training and 32 test images of 16x16 in 4 classes" in out
    assert out.endswith("the data are prepared and the settings are valid; nothing was trained\n")
    assert err.startswith("note: preparing folder in ")
    assert list(prepared.glob("folder/*/*/dataset_info.json"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 128, "64 training images do not fill one batch of 128"),
        ("teacher.checkpoint", "nowhere/teacher", "nowhere/teacher"),
        ("student.name", "resnet9", "unknown network 'resnet9'"),
    ],
)
def test_prepare_finds_the_mistakes_that_training_would(images, tmp_path, key, value, message):
    config = tiny_config(images, ("kd",))
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher.checkpoint": "nowhere"}, r"config\.teacher\.checkpoint: nowhere does not exist"),
        (
            {"teacher.ensemble": ("nowhere", "b"), "teacher.ensemble_models": ("vgg8", "vgg8")},
            r"config\.teacher\.ensemble: nowhere does not exist",
        ),
        ({"init_from": "nowhere"}, r"config\.init_from: nowhere does not exist"),
    ],
)
def test_load_inputs_finds_weights_before_it_prepares_data(tmp_path, settings, message):
    config = default.get_config()
    config.methods = ("kd",)
    config.update_from_flattened_dict(settings)
    data = DatasetSpec(10, (32, 32, 3), lambda: pytest.fail("the data are prepared"))
    with pytest.raises(UserError, match=message):
        load_inputs(config, plan_runs(config), data, tmp_path)


def test_prepare_warns_about_a_teacher_of_another_normalisation(images, trained, tmp_path, capsys):
    config = tiny_config(images, ("kd",))
    config.teacher.checkpoint = str(trained / "teacher")
    config.augment.std = (1.0, 1.0, 1.0)
    prepare(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert err.startswith("warning: the teacher ")
    assert "is normalised with [1.0, 1.0, 1.0] here" in err


def test_small_data_warnings_names_boundaries_that_are_not_reached(images):
    config = tiny_config(images, ("kd",))
    assert small_data_warnings(config, [64, 32]) == []
    config.optim.boundaries = (1, 2, 7)
    (line,) = small_data_warnings(config, [64, 32])
    assert line.startswith("config.optim.boundaries 2, 7 are not reached in 2 epochs")
    config.max_steps = 3
    assert small_data_warnings(config, [64, 32]) == []


def test_long_ramp_warnings_names_losses_that_never_have_their_weight(images):
    config = tiny_config(images, ("kd", "dkd", "dkd_ls"))
    config.epochs = 20
    assert long_ramp_warnings(config, plan_runs(config)) == []
    config.epochs = 8
    (line,) = long_ramp_warnings(config, plan_runs(config))
    assert "losses.dkd.ramp_up_epochs=20 of dkd, dkd_ls is longer than the 8 epochs" in line
    config.methods = ("kd",)
    config.losses.kd.ramp_up_epochs = 9
    assert (
        "config.losses.kd.ramp_up_epochs=9 of kd"
        in long_ramp_warnings(config, plan_runs(config))[0]
    )


def test_small_data_warnings_names_images_that_do_not_fill_a_batch(images):
    config = tiny_config(images, ("kd",))
    config.batch_size = 10
    assert small_data_warnings(config, [66]) == []
    (line,) = small_data_warnings(config, [66, 18, 18])
    assert line.startswith("8 of 18 training images (44%) do not fill a batch of 10")


@pytest.mark.parametrize(
    ("trained", "ours", "warns"),
    [
        ({"name": "folder"}, (0.25, 0), True),
        ({"name": "folder", "validation": 0.25, "validation_seed": 1}, (0.25, 0), True),
        ({"name": "folder", "validation": 0.25, "validation_seed": 0}, (0.25, 0), False),
        ({"name": "folder"}, (0.0, 0), False),
        ({"name": "cifar10"}, (0.25, 0), False),
        (None, (0.25, 0), False),
    ],
)
def test_seen_validation_warnings_names_a_network_that_has_seen_images_held_out_now(
    images, tmp_path, monkeypatch, trained, ours, warns
):
    config = tiny_config(images, ("kd",))
    data, fingerprint = config.data, Fingerprint("folder", ("0",), (16, 16, 3), {"train": 64})
    run = describe_run(config, plan_runs(config)[-1], fingerprint).to_dict()
    run["settings"]["data"] = trained
    monkeypatch.setattr(
        "amdjax.run_description.read_description", lambda folder: run if trained else None
    )
    (tmp_path / "kd/checkpoints/8").mkdir(parents=True)
    data.validation, data.validation_seed = ours
    for path in ("kd", "kd/checkpoints", "kd/checkpoints/8"):
        lines = seen_validation_warnings(data, describe_source(tmp_path / path), "the network")
        assert len(lines) == warns
        assert all("so it has seen images that are held out now" in line for line in lines)


def test_seen_validation_warnings_is_empty_for_a_network_of_another_origin(images, tmp_path):
    data = tiny_config(images, ("kd",)).data
    data.validation = 0.25
    (tmp_path / "teacher.pth").write_bytes(b"x")
    for name in ("teacher.pth", "missing"):
        assert seen_validation_warnings(data, describe_source(tmp_path / name), "the network") == []
