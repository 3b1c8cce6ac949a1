import os

import numpy as np
import pytest

from amdjax.data.prepared_entries import prepared_entries
from amdjax.data.sources import InMemorySource

NAMES, LABELS = ["a", "bc", "\udcff.png", "d/\u00e9"], [2, 0, 1, 1]  # a name that is not UTF-8


class Source(InMemorySource):
    """Four examples without images; counts how often their entries are read."""

    def __init__(self):
        super().__init__(np.zeros((4, 0)), np.array(LABELS, np.int32))
        self.reads = 0

    def entries(self, indices):
        self.reads += 1
        return [(NAMES[index], LABELS[index]) for index in indices]


@pytest.fixture
def files(tmp_path):
    """Two prepared files, of which only the names, sizes and times matter."""
    paths = [tmp_path / f"train-{shard}" for shard in range(2)]
    for path in paths:
        path.write_bytes(b"records")
    return paths


def _check(source, files, cache):
    names, labels = prepared_entries(source, files, cache)
    assert (names, labels.tolist(), labels.dtype) == (NAMES, LABELS, np.int32)


def test_prepared_entries_are_read_again_where_a_prepared_file_changes(files, tmp_path):
    source, cache = Source(), tmp_path / "entries.npz"
    for _ in range(2):
        _check(source, files, cache)
    assert source.reads == 1
    stat = files[1].stat()
    files[1].write_bytes(b"other records")
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    _check(source, files, cache)
    assert source.reads == 2
    os.utime(files[1], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    _check(source, files, cache)
    assert source.reads == 3
    _check(source, files[:1], cache)
    assert source.reads == 4
    assert sorted(tmp_path.iterdir()) == [cache, *files]


def test_prepared_entries_survive_every_damage_of_their_file(files, tmp_path):
    source, cache = Source(), tmp_path / "entries.npz"
    _check(source, files, cache)
    whole = cache.read_bytes()
    for position in range(0, len(whole), 7):
        cache.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        _check(source, files, cache)
        cache.write_bytes(whole[:position])
        _check(source, files, cache)
    assert source.reads > len(whole) // 7


def test_prepared_entries_need_no_folder_to_write_to(files, tmp_path):
    source = Source()
    for _ in range(2):
        _check(source, files, tmp_path / "missing" / "entries.npz")
    assert source.reads == 2
    assert sorted(tmp_path.iterdir()) == files
