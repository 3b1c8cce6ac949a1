import jax
import pytest

from amdjax.training.profiler import Profiler


@pytest.mark.parametrize(("steps", "enabled"), [(30, True), (12, True), (5, True), (30, False)])
def test_profiler_traces_the_tenth_to_the_twentieth_step(tmp_path, monkeypatch, steps, enabled):
    calls, done = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append(len(done)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(len(done)))
    with Profiler(tmp_path, enabled=enabled) as profile:
        for step in range(steps):
            done.append(step)
            profile.on_step(len(done))
    expected = {30: [9, 20], 12: [9, 12], 5: []}[steps] if enabled else []
    assert calls == expected
