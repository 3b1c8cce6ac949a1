import threading
from collections.abc import Iterable

import numpy as np
import pytest

from amdjax.data import (
    Batch,
    Batches,
    EvalBatches,
    InMemorySource,
    JoinedBatches,
    TrainBatches,
    prefetch,
)
from amdjax.errors import UserError


def numbered(n: int) -> InMemorySource:
    """Returns a source in which label i is i, and image i is filled with it."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], [n, 2, 2, 3])
    return InMemorySource(images, np.arange(n, dtype=np.int32))


def labels(batches: Batches, steps: Iterable[int]) -> np.ndarray:
    return np.concatenate([batches[step]["label"] for step in steps])


def test_train_batch_has_images_and_their_labels():
    batch = TrainBatches(numbered(20), 8, seed=0)[3]
    assert batch["image"].shape == (8, 2, 2, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


def test_joined_batch_has_the_rows_of_its_examples():
    arrays = {"index": np.arange(20), "teacher": [10.0 * np.arange(20)]}
    batch = JoinedBatches(TrainBatches(numbered(20), 8, seed=0), arrays)[3]
    np.testing.assert_array_equal(batch["index"], batch["label"])
    np.testing.assert_array_equal(batch["teacher"][0], 10.0 * batch["label"])


def test_train_epoch_has_each_example_at_most_once():
    batches = TrainBatches(numbered(35), 8, seed=0)
    assert batches.steps_per_epoch == 4
    epochs = [labels(batches, range(4 * epoch, 4 * epoch + 4)) for epoch in range(50)]
    assert all(len(set(epoch.tolist())) == 32 for epoch in epochs)
    # The dropped examples differ between epochs.
    assert set(np.concatenate(epochs).tolist()) == set(range(35))


def test_train_order_depends_on_seed_and_epoch_only():
    source = numbered(32)
    one, same, other = (TrainBatches(source, 8, seed=seed) for seed in (1, 1, 2))
    first, second = labels(one, range(4)), labels(one, range(4, 8))
    assert (first != second).any()
    np.testing.assert_array_equal(labels(same, range(4, 8)), second)
    assert (labels(other, range(4)) != first).any()
    expected = np.random.default_rng([1, 0]).permutation(32)
    np.testing.assert_array_equal(first, expected)


@pytest.mark.parametrize("count", [2, 4])
def test_train_batch_does_not_depend_on_the_number_of_processes(count):
    source = numbered(35)
    whole = TrainBatches(source, 8, seed=3)
    parts = [TrainBatches(source, 8, 3, index, count) for index in range(count)]
    for step in (0, 3, 4, 1000):
        for key in ("image", "label"):
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][key])


def test_prefetch_from_a_later_step_continues_the_stream():
    run = list(prefetch(TrainBatches(numbered(35), 8, seed=0), 0, 12))
    resumed = list(prefetch(TrainBatches(numbered(35), 8, seed=0), 7, 12))
    assert (len(run), len(resumed)) == (12, 5)
    for before, after in zip(run[7:], resumed, strict=True):
        np.testing.assert_array_equal(before["image"], after["image"])
        np.testing.assert_array_equal(before["label"], after["label"])


@pytest.mark.parametrize("n", [1, 9, 35, 36])
@pytest.mark.parametrize("count", [1, 3])
def test_eval_batches_have_every_example_exactly_once(n, count):
    parts = [EvalBatches(numbered(n), 9, index, count) for index in range(count)]
    assert {len(part) for part in parts} == {-(-n // 9)}
    found = []
    for part in parts:
        for batch in part:
            assert batch["image"].shape == (9 // count, 2, 2, 3)
            assert batch["mask"].dtype == bool
            np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
            found += batch["label"][batch["mask"]].tolist()
    assert sorted(found) == list(range(n))


def test_train_batches_error_on_too_few_examples():
    with pytest.raises(UserError, match="7 training images do not fill one batch of 8"):
        TrainBatches(numbered(7), 8, seed=0)


def test_batches_error_on_a_batch_that_cannot_be_divided():
    message = "batch_size=8 cannot be divided among 3 processes"
    with pytest.raises(UserError, match=message):
        TrainBatches(numbered(9), 8, seed=0, process_index=0, process_count=3)
    with pytest.raises(UserError, match=message):
        EvalBatches(numbered(9), 8, process_index=0, process_count=3)


class CountingBatches:
    def __init__(self):
        self.read, self.threads = [], set()

    def __getitem__(self, index: int) -> Batch:
        self.read.append(index)
        self.threads.add(threading.current_thread())
        return {"label": np.array([index])}


def test_prefetch_reads_each_batch_once_in_threads_and_in_order():
    batches = CountingBatches()
    received = [int(batch["label"][0]) for batch in prefetch(batches, 5, 40)]
    assert received == list(range(5, 40))
    assert sorted(batches.read) == received
    assert threading.current_thread() not in batches.threads
    assert list(prefetch(batches, 5, 5)) == []


def test_prefetch_raises_an_error_after_the_batches_before_it():
    class Failing:
        def __getitem__(self, index: int) -> Batch:
            if index == 3:
                raise UserError("example 3 is damaged")
            return {"label": np.array([index])}

    received = []
    with pytest.raises(UserError) as caught:
        for batch in prefetch(Failing(), 0, 10):
            received.append(int(batch["label"][0]))  # noqa: PERF401 - the iteration raises
    assert str(caught.value) == "example 3 is damaged"
    assert received == [0, 1, 2]


def test_prefetch_that_is_closed_early_stops_its_threads():
    batches = CountingBatches()
    iterator = prefetch(batches, 0, 10**6)
    next(iterator)
    iterator.close()
    for thread in batches.threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert len(batches.read) < 1000
