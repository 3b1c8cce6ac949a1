"""Requests to stop are recorded, and polled between two steps."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from jax.experimental import multihost_utils

from amdjax import distributed
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
    monkeypatch.setattr(multihost_utils, reached, lambda poll: poll == 2)
    with Preemption() as preemption:
        assert [preemption.requested() for _ in range(4)] == [False, True, True, True]


def test_preemption_leaves_signals_alone_in_other_threads_than_the_main_one():
    def use():
        with Preemption() as preemption:
            return preemption.requested(), signal.getsignal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(use).result() == (False, before)


def test_preemption_ends_the_run_with_the_error_of_its_check():
    def fail():
        raise UserError("the workdir was taken over")

    with Preemption(fail) as preemption, pytest.raises(UserError, match="taken over"):
        preemption.requested()
