import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.data.sources import InMemorySource, StreamedSource, decode_to_memory, num_cpus
from amdjax.errors import UserError
from tests.make_data import data_settings, encode, write_folder


class ListRecords:
    """A `RecordSource` of a list; a missing key is an error, as in damaged files."""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys: Sequence[int]) -> list[dict[str, Any]]:
        return [self.records[key] for key in keys]


def record(label: int, size: int = 8, **more) -> dict[str, Any]:
    return {"image": encode(np.full([size, size, 3], label, np.uint8)), "label": label, **more}


def source_of(*records: dict[str, Any], image_size: int = 0) -> StreamedSource:
    """Returns a source of 8x8 images and three classes."""
    return StreamedSource("pets train", ListRecords(list(records)), image_size, (8, 8, 3), 3)


def test_streamed_source_equals_in_memory_source_in_several_threads(tmp_path):
    folder = write_folder(tmp_path / "images", classes=5, per_class=60, size=20)
    changes = {"folder": str(folder), "image_size": 16}
    memory = load_dataset(data_settings("folder", tmp_path, **changes))
    streamed = load_dataset(data_settings("folder", tmp_path, memory_gib=0.0, **changes))
    assert streamed.image_shape == memory.image_shape == (16, 16, 3)
    assert isinstance(memory.train, InMemorySource)
    assert isinstance(streamed.train, StreamedSource)
    images, labels = memory.train.read(np.arange(300))
    batches = [np.random.default_rng(i).integers(0, 300, 50) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        reads = list(pool.map(streamed.train.read, batches))
    for indices, (read_images, read_labels) in zip(batches, reads, strict=True):
        np.testing.assert_array_equal(read_images, images[indices])
        np.testing.assert_array_equal(read_labels, labels[indices])


def test_random_crop_of_a_source_depends_on_seed_epoch_and_example():
    image = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    records = ListRecords([{"image": image, "label": 0}] * 2)
    source = StreamedSource("pets train", records, 8, (8, 8, 3), 3, crop="random_resized")
    first = source.read(np.arange(2), crop_seed=(5, 0))[0]
    np.testing.assert_array_equal(source.read(np.array([1]), crop_seed=(5, 0))[0][0], first[1])
    others = [source.read(np.array([0]), crop_seed=seed)[0][0] for seed in ((5, 1), (6, 0))]
    for crop in (first[1], *others):
        assert np.any(crop != first[0])


@pytest.mark.parametrize(
    ("label", "more", "name"), [(3, {"id": b"a/b.png"}, r" \(a/b.png\)"), (-1, {}, "")]
)
def test_read_error_names_a_label_outside_the_classes(label, more, name):
    source = source_of(record(0), {**record(2), "label": label, **more})
    message = rf"^pets train example 1{name}: label {label} is outside the classes 0\.\.2$"
    with pytest.raises(UserError, match=message):
        decode_to_memory(source)
    assert source.read(np.array([0]))[1].tolist() == [0]
    with pytest.raises(UserError, match=message):
        source.read(np.array([0, 1]))


def test_read_error_names_an_image_of_another_size():
    with pytest.raises(UserError, match=r"^pets train example 1 is 9x9, not 8x8 .*image_size"):
        decode_to_memory(source_of(record(0), record(1, size=9)))
    resized = source_of(record(0), record(1, size=9), image_size=8)
    assert decode_to_memory(resized).read(np.arange(2))[1].tolist() == [0, 1]


def test_read_error_on_unreadable_records():
    message = r"files of pets train cannot be read: .*prepared again"
    with pytest.raises(UserError, match=message):
        source_of(record(0)).read(np.array([1]))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("bad record"), UserError, "bad record; remove them, and they will be prepared"),
        (OSError(errno.EIO, "Input/output error"), UserError, "remove them, and they will be"),
        (OSError(errno.ESTALE, "Stale file handle"), UserError, "now: .*Stale file handle$"),
        (MemoryError(), MemoryError, "^$"),
    ],
)
def test_read_error_advises_to_remove_files_only_if_they_are_damaged(
    error, raised, message, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr(ListRecords, "__getitems__", fail)
    with pytest.raises(raised, match=message):
        source_of(record(0)).read(np.arange(1))


def test_num_cpus_are_those_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    assert num_cpus() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
