"""Trackers get what the log gets, continue a run, and never end a training."""

import importlib.util
import json

import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.training import trackers
from amdjax.training.run import run
from amdjax.training.run_logger import RunLogger
from amdjax.training.trackers import RunTrackers, check_trackers, register_tracker
from tests.tiny_run import tiny_config

CONFIG = {"batch_size": 8, "optim": {"name": "sgd", "boundaries": [1]}}
VALUES = {"train/loss": 0.5, "train/accuracy": 0.25}


@pytest.fixture
def calls():
    """The calls that the trackers "fake" and "broken" get; the latter fails at step 2."""
    calls = []

    @register_tracker("fake", "keeps what it gets")
    class _Fake:
        def start(self, name, folder, config, run_id):
            self.name = name
            calls.append(("start", name, folder, config, run_id))

        def log(self, step, values):
            calls.append(("log", self.name, step, dict(values)))

        def finish(self):
            calls.append(("finish", self.name))

    @register_tracker("broken", "fails at step 2")
    class _Broken(_Fake):
        def log(self, step, values):
            if step == 2:
                raise ConnectionError("no\nnetwork")

    yield calls


@pytest.mark.slow
def test_run_sends_its_log_to_trackers(images, tmp_path, calls, one_device):
    config = tiny_config(images, ("scratch",))
    config.max_steps = 1
    run(config, tmp_path / "x")
    config.trackers = ("fake",)  # may change when a run is resumed
    config.max_steps = 6
    run(config, tmp_path / "x")
    run(config, tmp_path / "x")  # a finished run sends nothing
    start, *logs, finish = calls
    assert start[:3] == ("start", "x/scratch", tmp_path / "x" / "scratch")
    assert start[3]["method"] == "scratch"
    assert start[3]["optim"]["learning_rate"] == 0.02
    assert finish == ("finish", "x/scratch")
    logged = [call[2:] for call in logs]
    lines = map(json.loads, (tmp_path / "x/scratch/metrics.jsonl").read_text().splitlines())
    expected = []
    for line in lines:
        split, step, _ = (line.pop(key) for key in ("split", "step", "epoch"))
        expected.append((step, {f"{split}/{name}": value for name, value in line.items()}))
    assert [entry for entry in expected if entry[0] > 1] == logged
    assert [step for step, _ in logged] == [4, 6, 6]


def test_failing_tracker_is_left_out_with_one_warning(tmp_path, calls, capsys):
    active = RunTrackers(("broken", "fake"), "kd", tmp_path, CONFIG)
    for step in (1, 2, 3):
        active.log(step, VALUES)
    active.finish()
    assert [call[2] for call in calls if call[0] == "log"] == [1, 2, 3]
    assert [call[0] for call in calls].count("finish") == 1
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: kd: the tracker broken failed")
    assert "ConnectionError: no network" in warning


def test_tracker_that_cannot_be_created_is_left_out(tmp_path, calls, capsys):
    @register_tracker("unbuilt", "fails at its creation")
    def create():
        raise ImportError("no client")

    active = RunTrackers(("unbuilt", "fake"), "kd", tmp_path, CONFIG)
    active.log(1, VALUES)
    assert [call[0] for call in calls] == ["start", "log"]
    assert "the tracker unbuilt failed" in capsys.readouterr().err


def test_run_ids_are_kept_in_the_folder(tmp_path, calls):
    def run_id(folder):
        folder.mkdir(exist_ok=True)
        RunTrackers(("fake",), folder.name, folder, CONFIG)
        return calls[-1][4]

    first, other = run_id(tmp_path / "kd"), run_id(tmp_path / "at")
    assert first == run_id(tmp_path / "kd") != other
    (tmp_path / "kd" / "tracker_id").write_bytes(b"\xff damaged")
    replaced = run_id(tmp_path / "kd")
    assert replaced not in (first, other)
    assert replaced == run_id(tmp_path / "kd")


def test_log_without_trackers_leaves_no_file(tmp_path):
    RunTrackers((), "kd", tmp_path, CONFIG).log(1, VALUES)
    assert not list(tmp_path.iterdir())


def test_disabled_log_sends_nothing(tmp_path, calls):
    options = {"start": 0, "total": 4, "steps_per_epoch": 2, "batch_size": 8, "enabled": False}
    active = RunTrackers(("fake",), "kd", tmp_path, CONFIG)
    with RunLogger(tmp_path, name="kd", trackers=active, **options) as log:
        log.add(0, 1, {"loss": np.float32(1), "accuracy": np.float32(1)})
        log.write_train(1, learning_rate=0.1)
    assert [call[0] for call in calls] == ["start", "finish"]


def test_check_trackers_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "amdjax\[wandb\]"'):
        check_trackers(("wandb",))
    check_trackers(())
    with pytest.raises(UserError, match=r"config\.trackers 'wandbb'; did you mean wandb"):
        check_trackers(("wandbb",))


def test_check_trackers_is_not_satisfied_by_a_folder_of_that_name(tmp_path, monkeypatch):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()  # as wandb writes it
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs the package wandb"):
        check_trackers(("wandb",))


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_runs_of_one_id(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("kd", "at"):
        (tmp_path / name).mkdir()
    together = [RunTrackers(("wandb",), name, tmp_path / name, CONFIG) for name in ("kd", "at")]
    for active in together:
        active.log(1, VALUES)
        active.log(1, {"test/accuracy": 0.5})
        active.finish()
    RunTrackers(("wandb",), "kd", tmp_path / "kd", CONFIG).finish()
    assert "warning: kd: the tracker" not in capsys.readouterr().err
    for name, count in (("kd", 2), ("at", 1)):
        run_id = (tmp_path / name / "tracker_id").read_text().strip()
        files = list((tmp_path / name / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
        assert len(files) == count
        assert any(b"train/loss" in file.read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_continues_the_run_of_a_file_store(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = {**CONFIG, **{f"setting{i}": i for i in range(2 * trackers._MAX_PARAMS)}}
    for step in (1, 2):
        active = RunTrackers(("mlflow",), "kd", tmp_path, config)
        active.log(step, {"train/loss": 1.0 / step})
        active.finish()
    assert capsys.readouterr().err == ""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("amdjax")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.run_name == f"{tmp_path.parent.name}/kd"
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["optim.name"] == "sgd"
    assert len(tracked.data.params) == len(CONFIG) + 1 + 2 * trackers._MAX_PARAMS
    history = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
