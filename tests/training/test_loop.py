"""The steps after which the host logs, evaluates and saves."""

from amdjax.training.loop import Schedule


def _schedule(**changes):
    defaults = {"start": 0, "total": 20, "eval_every": 8, "log_every": 5, "save_every": 6}
    return Schedule(**{**defaults, **changes})


def _steps(predicate):
    return [step for step in range(1, 21) if predicate(step)]


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
