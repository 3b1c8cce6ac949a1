"""Requests to stop are recorded, and polled between two steps."""

import signal

import pytest

from amdjax import distributed
from amdjax import preemption as preemption_module
from amdjax.errors import UserError
from amdjax.preemption import Preemption


@pytest.fixture
def interruptible():
    """Ctrl-C has an effect, also where the tests were started in the background of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_preemption_stops_one_process_at_ctrl_c():
    with Preemption() as preemption:
        assert not preemption.requested()
        signal.raise_signal(signal.SIGINT)
        assert preemption.requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_preemption_stays_requested_after_the_step_that_all_processes_agreed_on(monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    reached = "reached_preemption_sync_point"
    monkeypatch.setattr(preemption_module.multihost_utils, reached, lambda poll: poll == 2)
    with Preemption() as preemption:
        assert [preemption.requested() for _ in range(4)] == [False, True, True, True]


def test_preemption_ends_the_run_with_the_error_of_its_check():
    def fail():
        raise UserError("the workdir was taken over")

    with Preemption(fail) as preemption, pytest.raises(UserError, match="taken over"):
        preemption.requested()
