"""A whole small run, within this process."""

import json
import shutil

import jax
import numpy as np
import pytest

from amdjax.checkpoint import Checkpoints
from amdjax.checkpoint_files import read_evaluation
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.metrics import negative_log_likelihood
from amdjax.preemption import Preemption
from amdjax.trained import load_run
from amdjax.training.run import run
from amdjax.training.trainer import Trainer
from amdjax.workdir_lock import WorkdirLock
from tests.tiny_run import metrics_lines, tiny_config
from tests.trained_run import change_saved


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(tiny_config(images, ("scratch", "amd_gl")), workdir)
    return workdir


def test_run_writes_results_checkpoints_and_events(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["data"] == "folder"
    assert results["teacher"]["model"] == "wrn_10_1"
    assert list(results["methods"]) == ["scratch", "amd_gl"]
    for row in (results["teacher"], *results["methods"].values()):
        assert row["final"]["step"] == 16
        assert row["best"]["accuracy"] >= row["final"]["accuracy"]
        assert row["best"]["step"] in (8, 16)
    for phase in ("teacher", "scratch", "amd_gl"):
        assert list((finished / phase).glob("events.out.tfevents.*"))
        with Checkpoints(finished / phase) as checkpoints:
            assert checkpoints.latest_step() == 16


def test_run_logs_losses_rates_and_evaluations(finished):
    lines = metrics_lines(finished / "amd_gl")
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 8, 12, 16]
    assert [line["step"] for line in lines if line["split"] == "test"] == [8, 16]
    first = lines[0]
    total = 0.1 * first["ce"] + 0.9 * first["kd"] + 50.0 * first["am"]
    np.testing.assert_allclose(first["loss"], total, rtol=1e-5)
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.002, 0.002], rtol=1e-6)
    test = lines[-1]
    results = json.loads((finished / "results.json").read_text())
    assert results["methods"]["amd_gl"]["final"] == {
        key: value for key, value in test.items() if key not in ("split", "epoch")
    }


def test_run_does_not_train_a_finished_run_again(images, finished, capsys, monkeypatch):
    monkeypatch.delattr(Trainer, "init_state")  # weights are restored, and none are drawn
    change_saved(finished / "scratch/checkpoints/16", origin={"device": "A100"})
    change_saved(finished / "amd_gl/checkpoints/16", origin={})  # not known
    (finished / "results.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in finished.glob("*/checkpoints/*/*")}
    run(tiny_config(images, ("scratch", "amd_gl")), str(finished))
    out = capsys.readouterr().out
    assert "step" not in out.splitlines()[0]
    assert "amd_gl" in out
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(metrics_lines(finished / "amd_gl")) == 6
    content = json.loads((finished / "results.json").read_text())
    runs = {entry["label"]: entry for entry in content["runs"]}
    assert runs["scratch"]["origin"]["device"] == "A100"  # that of its training
    assert "device" not in runs["amd_gl"]["origin"]


def test_run_stops_before_a_run_if_a_signal_came_after_the_last_step(
    images, finished, capsys, monkeypatch
):
    monkeypatch.setattr(Preemption, "requested", lambda self: True)
    assert not run(tiny_config(images, ("scratch", "amd_gl")), finished)
    assert "stopped before teacher; repeat the command to resume" in capsys.readouterr().out


def test_run_writes_no_results_after_another_command_has_taken_the_workdir(
    images, finished, monkeypatch
):
    def check(_):
        raise UserError("another command has it now")

    before = (finished / "results.json").read_bytes()
    monkeypatch.setattr(WorkdirLock, "check", check)
    with pytest.raises(UserError, match="another command has it now"):
        run(tiny_config(images, ("scratch", "amd_gl")), finished)
    assert (finished / "results.json").read_bytes() == before


def test_run_of_another_method_uses_the_same_teacher(images, finished):
    before = (finished / "teacher" / "metrics.jsonl").read_bytes()
    run(tiny_config(images, ("kd",)), finished)
    assert (finished / "teacher" / "metrics.jsonl").read_bytes() == before
    assert (finished / "kd" / "checkpoints" / "16").is_dir()


def test_run_refuses_a_workdir_with_a_different_config(images, finished):
    config = tiny_config(images, ("amd_gl",))
    config.losses.am.margin = 1.5
    config.student.name = "resnet14"
    with pytest.raises(UserError) as caught:
        run(config, finished)
    message = str(caught.value)
    assert "losses.am.margin: saved 1.35, requested 1.5" in message
    assert "student.name: saved 'resnet8', requested 'resnet14'" in message
    assert "losses.am.scale" not in message


def test_run_takes_a_trained_teacher(images, finished, tmp_path, capsys):
    config = tiny_config(images, ("kd",))
    config.teacher.checkpoint = str(finished / "teacher")
    config.max_steps = 8
    run(config, tmp_path)
    known = read_evaluation(finished / "teacher")["accuracy"]
    out, err = capsys.readouterr()
    assert f"teacher: accuracy on the test split {known:.2%}\n" in out
    assert out.index("accuracy on the test split") < out.index("kd  step 4/8")
    assert "far below" not in err
    given = json.loads((tmp_path / "results.json").read_text())
    trained = json.loads((finished / "results.json").read_text())
    assert not (tmp_path / "teacher").exists()
    (read,) = json.loads((tmp_path / "kd/run.json").read_text())["given_teacher"]
    assert (read["source"], read["step"]) == (str(finished / "teacher"), 16)
    digests = [
        run["origin"]["conditions"]["teacher"]["digest"]
        for runs in (given["runs"], trained["runs"])
        for run in runs
        if run["label"] in ("kd", "amd_gl")
    ]
    assert set(digests) == {read["digest"]}
    for key in ("accuracy", "nll", "ece"):
        np.testing.assert_allclose(
            given["teacher"]["final"][key], trained["teacher"]["final"][key], rtol=1e-6
        )


def test_run_stops_at_a_value_that_is_not_finite(images, tmp_path, monkeypatch):
    config = tiny_config(images, ("scratch",))
    config.max_steps = 4
    # Without a checkpoint there is nothing to resume, and the learning rate may be lowered.
    config.log_every_steps, config.optim.learning_rate = 1, 1e18
    with pytest.raises(UserError, match=r"not finite at step 2: .*lower config\.optim\.learning"):
        run(config, tmp_path)
    assert [line["step"] for line in metrics_lines(tmp_path / "scratch")] == [1]
    config.log_every_steps, config.optim.learning_rate = 4, 0.02
    run(config, tmp_path)
    assert [line["step"] for line in metrics_lines(tmp_path / "scratch")] == [4, 4]
    with Checkpoints(tmp_path / "scratch") as checkpoints:
        evaluations = checkpoints.evaluations()
        assert list(evaluations) == [4]
    monkeypatch.setattr("amdjax.training.run.check_resumable", lambda *_: None)
    config.max_steps = 0
    config.optim.learning_rate = 1e30
    with pytest.raises(UserError) as caught:
        run(config, tmp_path)
    assert "scratch: not finite at step 5" in str(caught.value)
    assert "ce " in str(caught.value)
    with Checkpoints(tmp_path / "scratch") as checkpoints:
        assert checkpoints.latest_step() == 4
        assert checkpoints.evaluations() == evaluations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 6}, "batch_size=6 cannot be divided among 4 devices"),
        ({"batch_size": 400}, "64 training images do not fill one batch of 400"),
        ({"epochs": 0}, "config.epochs must be at least 1, not 0"),
        ({"methods": ()}, "config.methods is empty"),
        ({"methods": ("kd", "kd")}, "config.methods has duplicates: kd, kd"),
        ({"methods": ("kd+sq",)}, "unknown method 'sq'; did you mean sp"),
        ({"methods": ("kd+at+kd",)}, "the method 'kd\\+at\\+kd' names one method twice"),
        ({"methods": ("kd+am",)}, "'am', which is a loss; methods with it: amd_g, amd_gl"),
        ({"dtype": "float16"}, "unknown config.dtype 'float16'; did you mean bfloat16"),
        ({"student": {"name": "resnet9"}}, "name: unknown network 'resnet9'; did you mean resnet"),
        ({"optim": {"name": "sdg"}}, "unknown config.optim.name 'sdg'; did you mean sgd"),
        ({"optim": {"boundaries": (5, 3)}}, "must ascend"),
        ({"augment": {"pad_mode": "zeros"}}, "did you mean zero"),
        ({"augment": {"std": (1.0, 0.0, 1.0)}}, "augment.std needs three"),
        ({"data": {"name": "digit"}}, "unknown data set 'digit'; did you mean digits"),
        ({"seeds": (1, 1)}, "config.seeds has duplicates: 1, 1"),
        ({"seeds_at_once": True}, "config.seeds_at_once needs at least two config.seeds"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1"),
        ({"teacher": {"early_fraction": 0.0}}, "early_fraction must be above 0"),
        ({"augment": {"noise": -0.1}}, "augment.noise must be at least 0"),
        ({"mix": {"name": "moex", "layer": "stage9"}}, "unknown config.mix.layer 'stage9'"),
    ],
)
def test_run_refuses_invalid_settings(images, tmp_path, change, message):
    config = tiny_config(images, ("scratch",))
    config.update(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"am": {"features": ("stage4",)}}, "amd_gl: the loss am: unknown feature of the student"),
        (
            {"am": {"grid": 5}},
            "amd_gl: the loss am: a grid of 5x5 patches does not fit a",
        ),
        ({"am": {"terms": ("angle",)}}, "amd_gl: the loss am: unknown AM term"),
        (
            {"am": {"mask_threshold": 1.5}},
            "losses.am.mask_threshold must be at least 0 and below 1",
        ),
    ],
)
def test_run_checks_losses_before_any_training(images, tmp_path, change, message):
    config = tiny_config(images, ("scratch", "amd_gl"))
    config.losses.update(change)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path)
    assert not (tmp_path / "scratch" / "metrics.jsonl").exists()


def test_run_trains_several_seeds_and_an_early_teacher(images, tmp_path, capsys):
    config = tiny_config(images, ("kd", "eskd"))
    config.seeds = (0, 3)
    config.teacher.early_fraction = 0.5
    config.epochs = 1
    run(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["teacher"]["final"]["step"] == 8
    assert results["teacher_early"]["final"]["step"] == 4
    assert list(results["methods"]) == ["kd", "eskd"]
    for row in results["methods"].values():
        assert list(row["seeds"]) == ["0", "3"]
        by_seed = [row["seeds"][seed]["final"]["nll"] for seed in ("0", "3")]
        assert by_seed[0] != by_seed[1]
        np.testing.assert_allclose(row["final"]["nll"], np.mean(by_seed))
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"teacher", "teacher_early", "kd", "kd-seed3", "eskd", "eskd-seed3"}
    out = capsys.readouterr().out
    assert "; runs: teacher, teacher_early, kd, eskd; students with seeds 0, 3\n" in out
    assert "eskd - kd" in out
    parts = metrics_lines(tmp_path / "eskd")[-2]
    np.testing.assert_allclose(parts["loss"], 0.1 * parts["ce"] + 0.9 * parts["kd"], rtol=1e-5)
    early, late = (metrics_lines(tmp_path / name)[0] for name in ("teacher_early", "teacher"))
    assert early["loss"] == late["loss"]


@pytest.mark.slow
def test_seeds_at_once_give_the_results_of_separate_seeds(images, tmp_path):
    config = tiny_config(images, ("amd_gl",))
    config.seeds = (0, 3)
    config.epochs = 1
    config.optim.learning_rate = 1e-3  # so low that rounding does not grow
    run(config, tmp_path / "apart")
    config.seeds_at_once = True
    config.teacher.checkpoint = str(tmp_path / "apart" / "teacher")
    run(config, tmp_path / "at_once")

    def compare(rtol):
        for name in ("amd_gl", "amd_gl-seed3"):
            ours, theirs = (metrics_lines(tmp_path / way / name) for way in ("at_once", "apart"))
            assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [4, 8, 8]
            for one, other in zip(ours, theirs, strict=True):
                for key in one.keys() - {"split", "images_per_s", "ece"}:
                    np.testing.assert_allclose(one[key], other[key], rtol, err_msg=f"{name} {key}")

    compare(rtol=1e-4)
    # Students that stand at different steps: one is finished, the other one trained alone.
    shutil.rmtree(tmp_path / "at_once" / "amd_gl-seed3")
    run(config, tmp_path / "at_once")
    compare(rtol=1e-4)
    results = json.loads((tmp_path / "at_once" / "results.json").read_text())
    assert list(results["methods"]["amd_gl"]["seeds"]) == ["0", "3"]


def test_eskd_refuses_an_imported_teacher(images, tmp_path):
    config = tiny_config(images, ("eskd",))
    config.teacher.checkpoint = str(tmp_path)
    with pytest.raises(UserError, match="eskd trains a teacher that is stopped early"):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "hint"),
    [
        ("amc", ", or config.losses.amc.pair_labels to predicted"),
        *((method, "") for method in ("kd+center", "dkd", "arcface")),
    ],
)
def test_losses_of_classes_refuse_mixing(images, tmp_path, method, hint):
    config = tiny_config(images, (method,))
    config.mix.name = "cutmix"
    message = f"mixed images of config.mix.name='cutmix'; set it to none{hint}$"
    with pytest.raises(UserError, match=message):
        run(config, tmp_path)


def test_run_resumes_the_variables_of_losses(images, finished, tmp_path):
    """A run that is stopped between two steps goes on with the losses' own variables."""
    method = "fitnet+center+crd+simkd"
    config = tiny_config(images, (method,))
    config.epochs = 1
    config.losses.crd.negatives = 20
    config.teacher.checkpoint = str(finished / "teacher")
    run(config, tmp_path / "whole")
    config.max_steps = 5
    run(config, tmp_path / "parts")
    config.max_steps = 0
    run(config, tmp_path / "parts")
    whole, parts = (metrics_lines(tmp_path / name / method)[-1] for name in ("whole", "parts"))
    assert whole == parts
    # SimKD predicts with variables of the loss, which are restored with the network.
    test = load_dataset(config.data).test
    images, labels = test.read(np.arange(len(test)))
    nll = negative_log_likelihood(load_run(tmp_path / "parts" / method).logits(images), labels)
    np.testing.assert_allclose(nll, whole["nll"], rtol=1e-5)
    # They are counted: what is trained, and the teacher's classifier of 64 channels and 4 classes.
    variables = load_run(tmp_path / "parts" / method).variables
    trained = jax.tree.leaves((variables["params"], variables["losses"]["params"]))
    results = json.loads((tmp_path / "parts" / "results.json").read_text())
    parameters = results["methods"][method]["parameters"]
    assert parameters == sum(leaf.size for leaf in trained) + (64 + 1) * 4


def test_mixing_concerns_students_only(images, finished, tmp_path):
    config = tiny_config(images, ("amd_gl",))
    config.mix.name, config.mix.alpha = "mixup", 1.0
    config.mix.teacher_sees_mixed = False
    config.max_steps = 4
    run(config, tmp_path)
    plain, mixed = (metrics_lines(folder / "teacher")[0] for folder in (finished, tmp_path))
    assert plain["loss"] == mixed["loss"]
    plain, mixed = (metrics_lines(folder / "amd_gl")[0] for folder in (finished, tmp_path))
    assert plain["loss"] != mixed["loss"]


def test_teacher_with_ema_teaches_with_its_averages(images, tmp_path):
    config = tiny_config(images, ("kd",))
    config.ema_decay = 0.5
    config.max_steps = 3
    run(config, tmp_path / "trained")
    config.teacher.checkpoint = str(tmp_path / "trained" / "teacher")
    run(config, tmp_path / "given")
    trained, given = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("trained", "given")
    )
    np.testing.assert_allclose(
        given["teacher"]["final"]["nll"], trained["teacher"]["final"]["nll"], rtol=1e-6
    )
    assert given["methods"] == trained["methods"]


def test_run_resumes_on_moved_images_and_refuses_other_ones(images, finished, tmp_path, capsys):
    workdir, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(finished, workdir)
    shutil.copytree(images, moved)
    config = tiny_config(images, ("amd_gl",))
    config.data.folder = str(moved)
    run(config, workdir)
    first, *_ = sorted((moved / "train").iterdir())
    next(first.iterdir()).unlink()
    with pytest.raises(UserError, match=r"images have changed since .*train 64 -> 63"):
        run(config, workdir)
    config.data.accept_changes = True
    data = json.loads((workdir / "amd_gl" / "run.json").read_text())["data"]
    capsys.readouterr()
    run(config, workdir)
    assert "train 64 -> 63" in capsys.readouterr().err
    runs = json.loads((workdir / "results.json").read_text())["runs"]
    (origin,) = [one["origin"] for one in runs if one["label"] == "amd_gl"]
    assert origin["conditions"]["images"]["train"] == 64  # finished before
    assert json.loads((workdir / "amd_gl" / "run.json").read_text())["data"] == data
    for split in ("train", "test"):
        (moved / split / first.name).rename(moved / split / "zebra")
    with pytest.raises(UserError, match=rf"missing: '{first.name}'; new: 'zebra'"):
        run(config, workdir)
