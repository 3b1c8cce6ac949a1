"""The steps after which the host logs, evaluates and saves."""

import contextlib
import time
from types import SimpleNamespace

import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.training import loop
from amdjax.training.loop import HostSchedule, RunState, train_loop
from amdjax.training.metrics_file import METRICS_FILE, read_metrics, training_seconds


def _schedule(**changes):
    defaults = {"start": 0, "total": 20, "eval_every": 8, "log_every": 5, "save_every": 6}
    return HostSchedule(**{**defaults, **changes})


def _steps(predicate):
    return [step for step in range(1, 21) if predicate(step)]


def test_schedule_has_the_intervals_of_the_config():
    config = default.get_config()
    config.eval_every_epochs, config.log_every_steps = 3, 5
    config.checkpoint_every_steps, config.profile = 7, True
    assert HostSchedule.create(config, 2, 20, steps_per_epoch=4) == HostSchedule(
        start=2, total=20, eval_every=12, log_every=5, save_every=7, profile=True
    )


def test_schedule_evaluates_periodically_and_at_the_end():
    assert _steps(_schedule().evaluates) == [8, 16, 20]


def test_schedule_saves_at_each_evaluation_too():
    assert _steps(_schedule().saves) == [6, 8, 12, 16, 18, 20]


def test_schedule_logs_before_each_checkpoint_too():
    assert _steps(_schedule().logs) == [5, 6, 8, 10, 12, 15, 16, 18, 20]


def test_chunk_ends_stop_where_the_host_has_something_to_do():
    assert list(_schedule().chunk_ends(max_chunk=4)) == [4, 5, 6, 8, 10, 12, 15, 16, 18, 20]
    assert list(_schedule(start=13).chunk_ends(max_chunk=1)) == list(range(14, 21))
    assert list(_schedule(start=20).chunk_ends(max_chunk=4)) == []


def test_chunk_ends_stop_where_the_profiler_starts_and_ends():
    schedule = _schedule(total=30, eval_every=100, log_every=100, save_every=100, profile=True)
    assert list(schedule.chunk_ends(max_chunk=100)) == [9, 20, 30]


def _run(folder, start=0, save=None):
    return RunState(
        spec=SimpleNamespace(name="kd"),
        folder=folder,
        description=SimpleNamespace(method="kd", settings={}),
        checkpoints=SimpleNamespace(save=save),
        state=None,
        start=start,
        partial_sums={},
    )


def _trainer(config):
    return SimpleNamespace(
        config=config,
        total_steps=20,
        steps_per_epoch=100,
        learning_rate=lambda step: 0.1,
        evaluate=lambda *_: {"accuracy": 0.5},
        dataset=SimpleNamespace(selection=None, selection_split="test"),
    )


@pytest.mark.parametrize(("minutes", "saved"), [(0, [20]), (1, [6, 12, 18, 20]), (2, [12, 20])])
def test_train_loop_saves_by_time_at_log_lines(tmp_path, monkeypatch, minutes, saved):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    config = default.get_config()
    config.log_every_steps, config.checkpoint_every_minutes = 3, minutes

    def run_steps(states, first, last):
        clock[0] += 13.0 * (last - first)  # seconds
        metrics = {"loss": np.ones(last - first), "accuracy": np.ones(last - first)}
        return states, (metrics,)

    steps = []
    run = _run(tmp_path, save=lambda step, *_: steps.append(step))
    runner = SimpleNamespace(max_chunk=8, open=lambda *_: contextlib.nullcontext(run_steps))
    assert train_loop(_trainer(config), [run], runner, SimpleNamespace(requested=lambda: False))
    assert steps == saved


@pytest.mark.parametrize("blocks", [False, True])  # until the steps are done
@pytest.mark.parametrize("max_chunk", [1, 3, 8])
def test_train_loop_leaves_compilation_out_of_the_speed(tmp_path, monkeypatch, max_chunk, blocks):
    clock, chunk = [0.0], [0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    config = default.get_config()
    config.log_every_steps, config.batch_size = 3, 4

    @contextlib.contextmanager
    def open_runner(start, total, on_compiled):
        clock[0] += 50.0  # copies the training set to the device

        def run_steps(states, first, last):
            if first == 0:
                clock[0] += 100.0
                on_compiled()
            chunk[0] = last - first
            if blocks:
                compute(None)
                chunk[0] = 0
            return states, ({"loss": np.ones(last - first), "accuracy": np.ones(last - first)},)

        yield run_steps

    def compute(_):
        clock[0] += 2.0 * chunk[0]

    monkeypatch.setattr(distributed, "block_on_cpu", compute)
    runner = SimpleNamespace(max_chunk=max_chunk, open=open_runner)
    run = _run(tmp_path, save=lambda *_: None)
    assert train_loop(_trainer(config), [run], runner, SimpleNamespace(requested=lambda: False))
    lines = [line for line in read_metrics(tmp_path / METRICS_FILE)[0] if line["split"] == "train"]
    assert [line["images_per_s"] for line in lines] == [2.0] * 7
    assert training_seconds(tmp_path / METRICS_FILE, 4) == 40.0


@pytest.mark.parametrize("start", [20, 24])  # 24: `max_steps` was larger before
def test_train_loop_opens_nothing_for_a_finished_run(tmp_path, start):
    # Neither the runner, which would copy the training set, nor a log.
    trainer = _trainer(default.get_config())
    assert train_loop(trainer, [_run(tmp_path, start)], runner=None, preemption=None)
    assert list(tmp_path.iterdir()) == []


def test_train_loop_closes_the_first_log_if_the_second_cannot_be_opened(tmp_path, monkeypatch):
    trackers = [SimpleNamespace(finish=lambda: finished.append(True)), None]
    finished = []
    monkeypatch.setattr(loop, "RunTrackers", lambda *_: trackers.pop(0))
    runs = [_run(tmp_path), _run(tmp_path / "removed")]
    with pytest.raises(FileNotFoundError):
        train_loop(_trainer(default.get_config()), runs, runner=None, preemption=None)
    assert finished == [True]
