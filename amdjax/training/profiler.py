"""Profiler trace of some train steps."""

from pathlib import Path
from typing import Any

import jax


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

    def on_step(self, done: int, metrics: Any = ()) -> None:
        """Starts or ends the trace, where the process has done so many steps of the run.

        Args:
          done: the steps.
          metrics: arrays of the last one, for which the trace waits before it starts or ends.
        """
        if self._enabled and done in self.STOPS:
            jax.block_until_ready(metrics)
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
