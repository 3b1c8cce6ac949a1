"""Metric logging: progress, `metrics.jsonl`, TensorBoard events, trackers."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tqdm import tqdm

from amdjax.errors import UserError
from amdjax.files import set_aside
from amdjax.losses.registry import STEP_METRICS
from amdjax.training.metrics_file import METRICS_FILE, drop_lines
from amdjax.training.trackers import RunTrackers


class RunLogger:
    """The log of one run; a context manager. Only one process may write it (`enabled`).

    Each line of `metrics.jsonl` is an object with "split" ("train", and "test" or "validation"),
    "step", "epoch" and the values by name. Training values are means over the steps since the line
    before, also where the run was stopped between two lines.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        start: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        partial_sums: Mapping[str, Any] | None = None,
        enabled: bool = True,
        trackers: RunTrackers | None = None,
    ):
        """Opens the log after step `start`; lines of later steps, of a killed run, are dropped.

        Damaged lines are dropped, too, with a note. A folder of the file's name is renamed.

        Args:
          folder: of the run.
          name: of the run, for people.
          start: steps done before.
          total: the step after which the run is finished.
          steps_per_epoch: for the epoch of a line.
          batch_size: for the images/s of a line.
          partial_sums: what `partial_sums` returned at step `start`; None: nothing.
          enabled: whether to write anything.
          trackers: that get the values, too; finished when the log is closed.
        """
        self._name, self._total, self._steps_per_epoch = name, total, steps_per_epoch
        self._batch_size, self._enabled = batch_size, enabled
        self._sums: dict[str, float]
        self.reset()
        if partial_sums:
            self._sums, self._count = dict(partial_sums["sums"]), partial_sums["count"]
        self._trackers = trackers
        self._bar, self._file, self._events = None, None, None
        if not enabled:
            return
        path = folder / METRICS_FILE
        if path.is_dir():
            set_aside(path)
        if path.exists():
            drop_lines(path, start)
        self._file = path.open("a", buffering=1)
        self._events = _EventFile(folder, start)
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, desc=name, unit="step", dynamic_ncols=True, leave=False
            )

    def __enter__(self) -> "RunLogger":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes bar and files and finishes the trackers, also where one of them fails."""
        with contextlib.ExitStack() as stack:  # the last one is closed first
            if self._trackers is not None:
                stack.callback(self._trackers.finish)
            for part in (self._events, self._file, self._bar):
                if part is not None:
                    stack.callback(part.close)

    def add(self, first: int, last: int, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics of steps first + 1 to last.

        Args:
          first: steps done before them.
          last: the last of them.
          metrics: name -> array with at least last - first entries, or a scalar of a single step.

        Raises:
          UserError: if a value is not finite; it names the step and every value.
        """
        rows = {name: np.atleast_1d(values) for name, values in metrics.items()}
        for row in range(last - first):
            values = {name: float(array[row]) for name, array in rows.items()}
            if not all(map(np.isfinite, values.values())):
                raise _not_finite(self._name, first + row + 1, values)
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
            self._timed += 1
        if self._bar is not None:
            self._bar.update(last - first)

    def write_train(self, step: int, learning_rate: float) -> None:
        """Writes the means since the last line, with images/s."""
        if not self._count:
            return
        seconds = time.perf_counter() - self._since
        values = {name: total / self._count for name, total in self._sums.items()}
        rate = self._timed * self._batch_size / seconds
        self._write("train", step, {**values, "learning_rate": learning_rate}, images_per_s=rate)
        parts = _describe(values)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{rate:.0f} images/s  {parts}")
        else:
            left = (self._total - step) * seconds / self._timed
            self._print(f"{parts}  {rate:.0f} images/s  ETA {_clock(left)}", step)
        self.reset()

    def reset(self) -> None:
        """Starts the means of a line, and its time, in which evaluation and saving do not count."""
        self._sums = {}
        self._count = self._timed = 0  # steps in the sums, and those of them done since `_since`
        self.start_clock()

    def start_clock(self) -> None:
        """Starts the time of a line again; to be called when the first step has been compiled."""
        self._since = time.perf_counter()

    def partial_sums(self) -> dict[str, Any]:
        """Returns the sums of the steps since the last line, as JSON values; {} without any."""
        return {"sums": self._sums, "count": self._count} if self._count else {}

    def write_evaluation(self, step: int, values: dict[str, float], split: str = "test") -> None:
        """Writes the values of an evaluation on a split."""
        self._write(split, step, values)
        parts = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._print(f"{split} {parts}", step)

    def _write(self, split: str, step: int, values: dict[str, float], **more: float) -> None:
        if not self._enabled:
            return
        epoch = step / self._steps_per_epoch
        line = {"split": split, "step": step, "epoch": round(epoch, 4), **values, **more}
        self._file.write(json.dumps(line) + "\n")
        scalars = {f"{split}/{name}": value for name, value in {**values, **more}.items()}
        self._events.write(step, scalars)
        if self._trackers is not None:
            self._trackers.log(step, scalars)

    def _print(self, text: str, step: int) -> None:
        if self._enabled:
            epoch = step / self._steps_per_epoch
            tqdm.write(
                f"{self._name}  step {step}/{self._total}  epoch {epoch:.2f}  {text}",
                file=sys.stdout,
            )
            sys.stdout.flush()


class _EventFile:
    """The events of a run for TensorBoard.

    tensorboardX's `SummaryWriter` writes in a thread: the run would not get the error of a full
    disk, and would wait forever for the thread that did.
    """

    def __init__(self, folder: Path, start: int):
        """Opens a new file after step `start`."""
        # The suffix tells files apart that are opened within a second.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{start}"
        self._records = RecordWriter(str(folder / name))
        self._write_event(file_version="brain.Event:2")
        # TensorBoard discards what a killed run wrote after the checkpoint.
        self._write_event(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes values by name, which are on the disk then."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write_event(step=step, summary=Summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        self._records.close()

    def _write_event(self, **fields: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()


def _not_finite(name: str, step: int, values: dict[str, float]) -> UserError:
    """Returns the error for a step whose values are not all finite."""
    parts = ", ".join(f"{key} {value:.6g}" for key, value in values.items())
    if step == 1:
        advice = (
            "no weight has changed yet, so look for a division by zero or a logarithm or root of "
            "zero in the loss, or for a setting of it that is too large"
        )
    else:
        advice = (
            "lower config.optim.learning_rate or the weight of the diverging loss. Checkpoints of "
            "earlier steps are kept"
        )
    return UserError(f"{name}: not finite at step {step}: {parts}; {advice}")


def _describe(values: dict[str, float]) -> str:
    """Returns the text of a training line: the total loss, its parts and the accuracy."""
    losses = {name: value for name, value in values.items() if name not in STEP_METRICS}
    parts = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
    return f"loss {values['loss']:.4g} ({parts})  accuracy {values['accuracy']:.4f}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"
