"""Metric logging: progress bar or lines, `metrics.jsonl`, TensorBoard events, profiler trace."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from amdjax.errors import UserError
from amdjax.files import write_atomically

METRICS_FILE = "metrics.jsonl"


class RunLogger:
    """The log of one run; a context manager. Only one process may write it (`enabled`).

    Each line of `metrics.jsonl` is an object with "split" ("train" or "test"), "step", "epoch" and
    the values by name. Training values are means over the steps since the line before.
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
        enabled: bool = True,
    ):
        """Opens the log after step `start`; lines of later steps, of a killed run, are dropped.

        Args:
          folder: of the run.
          name: of the run, for people.
          start: steps done before.
          total: the step after which the run is finished.
          steps_per_epoch: for the epoch of a line.
          batch_size: for the images/s of a line.
          enabled: whether to write anything.
        """
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
        # TensorBoard discards what a killed run wrote after the checkpoint. The suffix tells files
        # apart that are opened within a second.
        self._events = SummaryWriter(str(folder), purge_step=start + 1, filename_suffix=f".{start}")
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
                parts = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
                raise UserError(
                    f"{self._name}: not finite at step {first + row + 1}: {parts}; lower "
                    "config.optim.learning_rate or the weight of the diverging loss. "
                    "The last good checkpoint is kept"
                )
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        if self._bar is not None:
            self._bar.update(last - first)

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
            self._print(f"{parts}  {rate:.0f} images/s  ETA {_clock(left)}", step)
        self.reset_timer()

    def reset_timer(self) -> None:
        """Discards the sums, so that evaluation and saving do not count as training time."""
        self._sums, self._count, self._since = {}, 0, time.perf_counter()

    def write_evaluation(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of an evaluation on the test split."""
        self._write("test", step, values)
        parts = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._print(f"test {parts}", step)

    def _write(self, split: str, step: int, values: dict[str, float], **more: float) -> None:
        if not self._enabled:
            return
        epoch = step / self._steps_per_epoch
        line = {"split": split, "step": step, "epoch": round(epoch, 4), **values, **more}
        self._file.write(json.dumps(line) + "\n")
        for name, value in {**values, **more}.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        self._events.flush()

    def _print(self, text: str, step: int) -> None:
        if self._enabled:
            epoch = step / self._steps_per_epoch
            tqdm.write(
                f"{self._name}  step {step}/{self._total}  epoch {epoch:.2f}  {text}",
                file=sys.stdout,
            )
            sys.stdout.flush()


class Profiler:
    """Records a trace of the 10th to the 20th step that a process does; a context manager.

    The folder opens in TensorBoard (with its profile plugin) and holds a `perfetto_trace.json.gz`
    for ui.perfetto.dev.
    """

    FIRST, LAST = 10, 20
    STOPS = (FIRST - 1, LAST)  # numbers of steps done, after which `on_step` must be called

    def __init__(self, folder: Path, enabled: bool):
        """Takes the folder of the trace; nothing is written where it is not enabled."""
        self._folder, self._enabled = folder, enabled
        self._running = False

    def on_step(self, done: int) -> None:
        """Starts or ends the trace, where the process has done so many steps of the run."""
        if self._enabled and done == self.FIRST - 1:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif done >= self.LAST:
            self.stop()

    def stop(self) -> None:
        """Ends the trace, if one is being recorded."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def __enter__(self) -> "Profiler":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the trace of a run that has fewer steps."""
        self.stop()


def _drop_later_lines(path: Path, step: int) -> None:
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):  # cut off when the run was killed
            continue
    write_atomically(path, "".join(kept))


def _describe(values: dict[str, float]) -> str:
    """Returns the text of a training line: the total loss, its parts and the accuracy."""
    apart = ("loss", "accuracy", "grad_norm", "param_norm")
    parts = " ".join(f"{name} {value:.4g}" for name, value in values.items() if name not in apart)
    return f"loss {values['loss']:.4g} ({parts})  accuracy {values['accuracy']:.4f}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else "over a day"
