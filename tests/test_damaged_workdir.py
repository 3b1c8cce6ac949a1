"""A workdir with damaged files: what was trained is used, or named, and is never wrong."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amdjax.checkpoint import Checkpoints, read_network
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.files import check_writable
from amdjax.preemption import Preemption
from amdjax.resuming import check_data, check_resumable
from amdjax.run_description import read_label, write_run
from amdjax.run_settings import describe_run
from amdjax.training import results
from amdjax.training.metrics_file import read_metrics
from amdjax.training.results_file import write_results
from amdjax.training.run import run
from amdjax.training.run_logger import RunLogger
from amdjax.workdir import read_config, write_config
from tests.damage_walk import FILE_DAMAGES, FOLDER_DAMAGES, files_of, folders_of
from tests.tiny_run import tiny_config
from tests.trained_run import copy

CLASSES = ("class_0", "class_1", "class_2", "class_3")
DATA = Fingerprint("folder", CLASSES, (16, 16, 3), {"train": 64, "test": 32})
STEPS = (8, 16)  # of the checkpoints
LENGTH = {"total": 16, "steps_per_epoch": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("images"), ("kd",))


@pytest.fixture(scope="module")
def spec(config):
    (spec,) = (spec for spec in plan_runs(config) if spec.name == "kd")
    return spec


@pytest.fixture(scope="module")
def finished(config, spec, tmp_path_factory):
    """A workdir with all files of a finished run, but with a state of two small arrays."""
    workdir = tmp_path_factory.mktemp("run")
    folder = workdir / "kd"
    check_writable(folder)
    write_config(config, workdir)
    description = describe_run(config, spec, DATA)
    write_run(description, folder)
    with (
        Checkpoints(folder, description.to_dict()) as checkpoints,
        RunLogger(folder, name="kd", start=0, **LENGTH) as log,
    ):
        for step in (4, 8, 12, 16):
            log.add(step - 1, step, {"loss": np.float32(step), "accuracy": np.float32(0.5)})
            log.write_train(step, learning_rate=0.1)
            if step in STEPS:
                evaluation = {"accuracy": step / 32, "nll": 0.5, "ece": 0.1}
                log.write_evaluation(step, evaluation)
                checkpoints.save(step, _state(step), evaluation)
        evaluations = checkpoints.evaluations()
    write_results(workdir, DATA, {"kd": {0: results.RunResult("resnet8", 1, evaluations)}})
    return workdir


def _state(step):
    return {"params": {"w": jnp.full((8, 4), step, jnp.float32)}, "step": jnp.int32(step)}


def _damaged_copy(finished, to, path, damage):
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(finished, to)
    damage(to / path)
    return to


def _resume(workdir, config, spec):
    """Does what a resumed run does apart from the training; returns the step and the state."""
    folder = workdir / spec.name
    check_resumable(config, spec, folder)
    check_writable(folder)
    assert check_data(config, folder, DATA) is None
    write_config(config, workdir)
    description = describe_run(config, spec, DATA)
    write_run(description, folder)
    with Checkpoints(folder, description.to_dict()) as checkpoints:
        step, state = checkpoints.latest_step() or 0, _state(0)
        if step:
            state = checkpoints.restore_latest(state)
            assert checkpoints.restore_partial_sums() == {}
        evaluations = checkpoints.evaluations()
    with RunLogger(folder, name="kd", start=step, **LENGTH):
        pass
    if evaluations:
        write_results(workdir, DATA, {"kd": {0: results.RunResult("resnet8", 1, evaluations)}})
    return step, state


def _assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def _assert_no_noise(capfd):
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "Event loop" not in err


@pytest.mark.parametrize("kind", FILE_DAMAGES)
def test_damaged_file_never_ends_or_changes_a_run(finished, config, spec, tmp_path, capfd, kind):
    lines, _ = read_metrics(finished / "kd/metrics.jsonl")
    for path in files_of(finished, "kd"):
        if path.is_relative_to("kd/checkpoints/8") and kind != "deleted":
            continue  # not read while the newest can be
        workdir = _damaged_copy(finished, tmp_path / "run", path, FILE_DAMAGES[kind])
        assert read_label(workdir / "kd") == "kd"
        try:
            read_config(workdir)
        except UserError as error:
            assert path.name == "config.json"
            assert len(str(error).splitlines()) == 1
        step, network = read_network(workdir / "kd")
        assert step == 16 or path.is_relative_to("kd/checkpoints/16")
        _assert_equal(network["params"], _state(step)["params"])
        step, state = _resume(workdir, config, spec)
        assert step == 16 or path.is_relative_to("kd/checkpoints/16")
        _assert_equal(state, _state(step))
        assert read_config(workdir).to_dict() == config.to_dict()
        assert "kd" in json.loads((workdir / "results.json").read_text())["methods"]
        kept, damaged = read_metrics(workdir / "kd/metrics.jsonl")
        assert damaged == 0
        if path.name != "metrics.jsonl":
            assert kept == [line for line in lines if line["step"] <= step]
    _assert_no_noise(capfd)


@pytest.mark.parametrize("kind", FOLDER_DAMAGES)
def test_damaged_folder_is_named_or_its_run_goes_on(finished, config, spec, tmp_path, capfd, kind):
    for path in folders_of(finished, "kd"):
        all_damaged = path.parts in (("kd",), ("kd", "checkpoints"))
        workdir = _damaged_copy(finished, tmp_path / "run", path, FOLDER_DAMAGES[kind])
        if all_damaged and kind != "folder deleted":
            with pytest.raises(UserError, match="remove") as caught:
                _resume(workdir, config, spec)
            assert len(str(caught.value).splitlines()) == 1
            continue
        step, state = _resume(workdir, config, spec)
        assert step in ((0,) if all_damaged else STEPS)
        _assert_equal(state, _state(step))
    _assert_no_noise(capfd)


def _read_state(workdir):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((workdir / "kd/checkpoints/16/default").absolute())


def test_run_on_damaged_files_and_stopped_equals_the_unbroken_one(
    trained, tmp_path, monkeypatch, capfd
):
    config = read_config(trained)
    workdir = copy(trained, tmp_path / "run")
    for path in (workdir / "kd/checkpoints/16/default").rglob("d/*"):
        FILE_DAMAGES["one bit flipped"](path)
    FILE_DAMAGES["not UTF-8"](workdir / "config.json")
    FILE_DAMAGES["cut in half"](workdir / "results.json")
    FILE_DAMAGES["replaced by a folder"](workdir / "kd/run.json")
    with (workdir / "kd/metrics.jsonl").open("ab") as file:
        file.write(b'\xff\n{"split": "tr')
    stop = iter([False, False, False, True])  # before each of two runs, then after its steps
    monkeypatch.setattr(Preemption, "requested", lambda _: next(stop))
    assert not run(config, workdir)
    err = capfd.readouterr().err
    assert "kd/checkpoints/16 was damaged or incomplete" in err
    assert "metrics.jsonl: damaged lines that are dropped: 1" in err
    with Checkpoints(workdir / "kd") as checkpoints:
        assert checkpoints.latest_step() == 10
    monkeypatch.setattr(Preemption, "requested", lambda _: False)
    assert run(config, workdir)
    _assert_equal(_read_state(workdir), _read_state(trained))

    def lines(folder):
        return [{**line, "images_per_s": 0} for line in read_metrics(folder / "metrics.jsonl")[0]]

    assert lines(workdir / "kd") == lines(trained / "kd")
    ours, theirs = (
        json.loads((folder / "results.json").read_text()) for folder in (workdir, trained)
    )
    for content in (ours, theirs):
        (*_, kd) = content.pop("runs")
        assert kd["origin"]["seconds"] > 0
    assert ours == theirs
    events = EventAccumulator(str(workdir / "kd")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [4, 8, 12, 16]
    assert [event.step for event in events.Scalars("test/accuracy")] == [8, 16]
