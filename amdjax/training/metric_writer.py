"""What a run tells: a progress bar or lines, `metrics.jsonl`, TensorBoard events, a trace."""

import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from amdjax.errors import UserError

METRICS_FILE = "metrics.jsonl"


class RunLogger:
    """The log of one phase; a context manager. Only one process of a run may write (`enabled`).

    Each line of `metrics.jsonl` is an object with "split" ("train" or "test"), "step", "epoch" and
    the values by name. Training values are means over the steps since the line before.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        start: int,
        total: int,
        steps_per_epoch: int,
        batch_size: int,
        enabled: bool = True,
    ):
        """Opens the log behind step `start`; lines of later steps, of a killed run, are dropped."""
        self._name, self._total, self._steps_per_epoch = name, total, steps_per_epoch
        self._batch_size, self._enabled = batch_size, enabled
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()
        self._bar, self._file, self._events = None, None, None
        if not enabled:
            return
        path = folder / METRICS_FILE
        if path.exists():
            _drop_later_lines(path, start)
        self._file = path.open("a", buffering=1)
        self._events = _open_events(folder, start)
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, desc=name, unit="step", dynamic_ncols=True, leave=False
            )

    def __enter__(self) -> "RunLogger":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes files and bar."""
        for part in (self._bar, self._file, self._events):
            if part is not None:
                part.close()

    def train_step(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Notes the values of a step.

        Raises:
          UserError: if any is not finite; it names the step and every value.
        """
        values = {name: float(value) for name, value in metrics.items()}
        if not all(np.isfinite(value) for value in values.values()):
            parts = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
            raise UserError(
                f"{self._name}: not finite at step {step}: {parts}; lower "
                "config.optim.learning_rate or the weight of the part that grew. "
                "The last good checkpoint is kept"
            )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self._bar is not None:
            self._bar.update(1)

    def train_steps(self, first: int, last: int, metrics: dict[str, np.ndarray]) -> None:
        """Notes the values of steps first + 1 to last: arrays of at least so many, or scalars.

        Raises:
          UserError: as `train_step`.
        """
        rows = {name: np.atleast_1d(values) for name, values in metrics.items()}
        for row in range(last - first):
            self.train_step(first + row + 1, {name: values[row] for name, values in rows.items()})

    def write_train(self, step: int, learning_rate: float) -> None:
        """Writes the means since the last line, with images/s."""
        if not self._count:
            return
        seconds = time.perf_counter() - self._since
        values = {name: total / self._count for name, total in self._sums.items()}
        rate = self._count * self._batch_size / seconds
        self._write("train", step, {**values, "learning_rate": learning_rate}, images_per_s=rate)
        parts = _describe(values)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{rate:.0f} images/s  {parts}")
        else:
            left = (self._total - step) * seconds / self._count
            self._say(f"{parts}  {rate:.0f} images/s  ETA {_clock(left)}", step)
        self.reset_timer()

    def reset_timer(self) -> None:
        """Forgets the steps so far, so that what follows is timed without what lay between."""
        self._sums, self._count, self._since = {}, 0, time.perf_counter()

    def write_evaluation(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of an evaluation on the test split."""
        self._write("test", step, values)
        parts = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._say(f"test {parts}", step)

    def _write(self, split: str, step: int, values: dict[str, float], **more: float) -> None:
        if not self._enabled:
            return
        epoch = step / self._steps_per_epoch
        line = {"split": split, "step": step, "epoch": round(epoch, 4), **values, **more}
        self._file.write(json.dumps(line) + "\n")
        if self._events is not None:
            self._events.write(step, {f"{split}/{k}": v for k, v in {**values, **more}.items()})

    def _say(self, text: str, step: int) -> None:
        if self._enabled:
            epoch = step / self._steps_per_epoch
            tqdm.write(
                f"{self._name}  step {step}/{self._total}  epoch {epoch:.2f}  {text}",
                file=sys.stdout,
            )
            sys.stdout.flush()


class Profiler:
    """Traces the 10th to the 20th step that a process does of a phase; a context manager.

    The folder opens in TensorBoard (with its profile plugin) and holds a `perfetto_trace.json.gz`
    for ui.perfetto.dev.
    """

    FIRST, LAST = 10, 20
    STOPS = (FIRST - 1, LAST)  # numbers of steps done, behind which `reached` must be called

    def __init__(self, folder: Path, enabled: bool):
        """Takes the folder of the trace; nothing is written where it is not enabled."""
        self._folder, self._enabled = folder, enabled
        self._running = False

    def reached(self, done: int) -> None:
        """Is called where the process has done so many steps of the phase."""
        if self._enabled and done == self.FIRST - 1:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif done >= self.LAST:
            self.stop()

    def stop(self) -> None:
        """Ends the trace, if one is being written."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def __enter__(self) -> "Profiler":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the trace of a phase that has fewer steps."""
        self.stop()


class _Events:
    """TensorBoard's event file, written without TensorFlow."""

    def __init__(self, folder: Path, start: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._writer = EventFileWriter(str(folder))
        # Tells TensorBoard to forget what a killed run wrote beyond the checkpoint.
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start, session_log=session)

    def write(self, step: int, values: dict[str, float]) -> None:
        value = self._summary.Summary.Value
        summary = self._summary.Summary(
            value=[value(tag=tag, simple_value=number) for tag, number in values.items()]
        )
        self._add(step=step, summary=summary)

    def _add(self, **fields: object) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), **fields))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


_said_no_tensorboard = False


def _open_events(folder: Path, start: int) -> _Events | None:
    global _said_no_tensorboard
    try:
        return _Events(folder, start)
    except ImportError:
        if not _said_no_tensorboard:
            print(f"no TensorBoard events: tensorboard is not installed; see {METRICS_FILE}")
            _said_no_tensorboard = True
        return None


def _drop_later_lines(path: Path, step: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):  # cut off when the run was killed
            continue
    write_atomically(path, "".join(kept))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it is there whole, as it was before, or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _describe(values: dict[str, float]) -> str:
    """The values of a training line, the total first and its parts behind it."""
    apart = ("loss", "accuracy", "grad_norm", "param_norm")
    parts = " ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in apart)
    return f"loss {values['loss']:.4g} ({parts})  accuracy {values['accuracy']:.4f}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"
