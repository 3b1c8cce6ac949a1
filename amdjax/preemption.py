"""Requests to stop a run: SIGTERM, Ctrl-C and the preemption service of JAX."""

import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from amdjax import distributed


class Preemption:
    """Requests to stop: SIGTERM or Ctrl-C, which the train loop polls between two steps.

    A context manager: inside it SIGTERM and the first SIGINT are recorded and have no other effect.
    With several processes JAX's preemption service handles SIGTERM and makes all processes stop
    after the same step; SIGINT becomes SIGTERM. In a thread that is not the main one, which Python
    does not allow to handle signals, none is recorded.
    """

    def __init__(self, check: Callable[[], None] = lambda: None):
        """Takes a function that is called at each poll; what it raises ends the run unsaved."""
        self._check = check

    def __enter__(self) -> "Preemption":
        """Installs the handlers."""
        self._stop = False
        self._calls, self._agreed = 0, False
        self._previous = {}
        if threading.current_thread() is not threading.main_thread():
            return self
        numbers = [signal.SIGINT]
        if distributed.process_count() == 1:
            numbers.append(signal.SIGTERM)
        for number in numbers:
            self._previous[number] = signal.signal(number, self._record_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Restores the previous handlers."""
        self._restore()

    def requested(self) -> bool:
        """Returns whether to save and stop now; to be called by all processes equally often."""
        self._check()
        if distributed.process_count() > 1:
            # JAX stops at the call whose number is one above the last that any process has made:
            # with numbers that do not start at 1 or have gaps, as steps do, it can be missed.
            self._calls += 1
            # JAX says so once, perhaps after the last step of a run.
            self._agreed |= distributed.is_preempted(self._calls)
            return self._agreed
        return self._stop

    def _record_signal(self, number: int, frame: Any) -> None:
        self._stop = True
        self._restore()  # a second signal ends the process immediately
        if distributed.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
