import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amdjax.errors import UserError
from amdjax.training import run_logger


def _open(folder, start=0, total=10, **options):
    return run_logger.RunLogger(
        folder, name="kd", start=start, total=total, steps_per_epoch=5, batch_size=4, **options
    )


def _steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(json.loads(line)["split"], json.loads(line)["step"]) for line in lines]


def _train(log, steps, loss=1.0):
    for step in steps:
        log.add(step - 1, step, {"loss": np.float32(loss * step), "accuracy": np.float32(0.5)})


def test_train_lines_hold_means_since_the_last_line(tmp_path, capsys):
    with _open(tmp_path) as log:
        _train(log, [1, 2, 3])
        log.write_train(3, learning_rate=0.1)
        _train(log, [4])
        log.write_train(4, learning_rate=0.01)
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["loss"], first["learning_rate"], first["epoch"]) == (2.0, 0.1, 0.6)
    assert (second["loss"], second["step"]) == (4.0, 4)
    assert "kd  step 3/10  epoch 0.60  loss 2" in capsys.readouterr().out


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    with _open(tmp_path) as log:
        for step in range(1, 6):
            _train(log, [step])
            log.write_train(step, learning_rate=0.1)
        log.write_evaluation(5, {"accuracy": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "train", "st')  # killed here
    with _open(tmp_path, start=3) as log:
        _train(log, [4])
        log.write_train(4, learning_rate=0.1)
    assert _steps(tmp_path) == [("train", step) for step in (1, 2, 3, 4)]


def test_events_can_be_read_by_tensorboard(tmp_path):
    with _open(tmp_path) as log:
        _train(log, [1, 2])
        log.write_train(2, learning_rate=0.5)
        log.write_evaluation(2, {"accuracy": 0.25})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/learning_rate")] == [(2, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("test/accuracy")] == [(2, 0.25)]


def test_events_keep_every_point_across_a_resume(tmp_path):
    for start in (0, 2):
        with _open(tmp_path, start=start) as log:
            for step in range(start + 1, 5):
                _train(log, [step])
                log.write_train(step, learning_rate=0.5)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]


def test_full_disk_fails_the_line_that_is_written(tmp_path, monkeypatch):
    threads = threading.active_count()
    with pytest.raises(OSError, match="No space left"), _open(tmp_path) as log:
        assert threading.active_count() == threads  # none that would get the error
        log._events._records.close()
        full = Path("/dev/full").open("wb")  # noqa: SIM115 - the log closes it
        monkeypatch.setattr(log._events._records, "_writer", full)
        _train(log, [1])
        log.write_train(1, learning_rate=0.5)
    assert full.closed  # else its buffer is written, and fails, once more when Python ends
    assert log._file.closed


def test_line_after_a_stop_is_that_of_a_run_without_one(tmp_path):
    losses = np.random.default_rng(0).random(4)
    for name, stop in (("whole", 4), ("parts", 3)):
        (tmp_path / name).mkdir()
        partial_sums = None
        for first, last in ((0, stop), (stop, 4)):
            with _open(tmp_path / name, start=first, partial_sums=partial_sums) as log:
                for step in range(first, last):
                    log.add(step, step + 1, {"loss": losses[step], "accuracy": 0.5})
                if last == 4:
                    log.write_train(4, learning_rate=0.1)
                partial_sums = json.loads(json.dumps(log.partial_sums()))
    whole, parts = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("whole", "parts")
    )
    assert whole.pop("images_per_s") > 0 < parts.pop("images_per_s")
    assert whole == parts
    assert partial_sums == {}


def test_damaged_lines_are_dropped_with_a_note(tmp_path, capsys):
    lines = [json.dumps({"split": "train", "step": step}).encode() for step in range(5)]
    damaged = [b"5", b"[]", b"\xff", b'{"split": "train"}', b'{"split": 1, "step": "a"}', b""]
    damaged.append(b'{"split": "train", "step": 3, "loss": null}')
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, *damaged, lines[0][:9]]))
    with _open(tmp_path, start=3):
        pass
    assert _steps(tmp_path) == [("train", step) for step in range(4)]
    assert "metrics.jsonl: damaged lines that are dropped: 7" in capsys.readouterr().err


def test_log_closes_every_part_also_if_one_fails(tmp_path, monkeypatch):
    def fail():
        raise OSError("no space left")

    finished = []
    trackers = SimpleNamespace(finish=lambda: finished.append(True))
    with pytest.raises(OSError, match="no space left"), _open(tmp_path, trackers=trackers) as log:
        close = log._events.close
        monkeypatch.setattr(log._events, "close", fail)
    close()
    assert log._file.closed
    assert finished


def test_folder_in_place_of_the_log_is_renamed(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    with _open(tmp_path, start=3) as log:
        _train(log, [4])
        log.write_train(4, learning_rate=0.1)
    assert _steps(tmp_path) == [("train", 4)]
    assert (tmp_path / "metrics.jsonl.damaged").is_dir()
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_reported_with_its_step(tmp_path, value):
    with (
        _open(tmp_path) as log,
        pytest.raises(UserError, match=r"kd: not finite at step 7: loss 1\.5, am (nan|-?inf)"),
    ):
        log.add(6, 7, {"loss": np.float32(1.5), "am": np.float32(value)})


def test_value_that_is_not_finite_before_any_update_is_not_blamed_on_the_learning_rate(tmp_path):
    with _open(tmp_path) as log, pytest.raises(UserError) as caught:
        log.add(0, 1, {"am": np.float32(np.nan)})
    assert "not finite at step 1: am nan; no weight has changed yet" in str(caught.value)
    assert "learning_rate" not in str(caught.value)


def test_disabled_logger_writes_nothing(tmp_path, capsys):
    with _open(tmp_path, enabled=False) as log:
        _train(log, [1])
        log.write_train(1, learning_rate=0.5)
        log.write_evaluation(1, {"accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
