from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.data.sources import StreamedSource, decode_to_memory
from amdjax.errors import UserError
from tests.make_data import data_settings, encode, write_folder


class RecordSource:
    """Records in memory; a key that is not there is an error, as it is in damaged files."""

    def __init__(self, records: list[dict]):
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, keys):
        return [self.records[key] for key in keys]


def record(label: int, size: int = 8, **more) -> dict:
    return {"image": encode(np.full([size, size, 3], label, np.uint8)), "label": label, **more}


def split(*records: dict, num_classes: int = 3, image_size: int = 0) -> StreamedSource:
    return StreamedSource(
        "pets train", RecordSource(list(records)), image_size, (8, 8, 3), num_classes
    )


def test_streamed_is_the_same_as_in_memory_and_safe_in_threads(tmp_path):
    folder = write_folder(tmp_path / "images", classes=5, per_class=60, size=20)
    changes = {"folder": str(folder), "image_size": 16}
    memory = load_dataset(data_settings("folder", tmp_path, **changes))
    streamed = load_dataset(data_settings("folder", tmp_path, memory_gib=0.0, **changes))
    assert streamed.image_shape == memory.image_shape == (16, 16, 3)
    assert type(memory.train) is not type(streamed.train)
    images, labels = memory.train.read(np.arange(300))
    draws = [np.random.default_rng(i).integers(0, 300, 50) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        reads = list(pool.map(streamed.train.read, draws))
    for draw, (read, read_labels) in zip(draws, reads, strict=True):
        np.testing.assert_array_equal(read, images[draw])
        np.testing.assert_array_equal(read_labels, labels[draw])


@pytest.mark.parametrize(
    ("label", "more", "where"), [(3, {"id": b"a/b.png"}, r" \(a/b.png\)"), (-1, {}, "")]
)
def test_label_outside_the_classes(label, more, where):
    bad = split(record(0), {**record(2), "label": label, **more})
    message = rf"^pets train example 1{where}: label {label} is outside the classes 0\.\.2$"
    with pytest.raises(UserError, match=message):
        decode_to_memory(bad)
    assert bad.read(np.array([0]))[1].tolist() == [0]
    with pytest.raises(UserError, match=message):
        bad.read(np.array([0, 1]))


def test_images_of_different_sizes():
    with pytest.raises(UserError, match=r"^pets train example 1 is 9x9, not 8x8 .*image_size"):
        decode_to_memory(split(record(0), record(1, size=9)))
    mixed = split(record(0), record(1, size=9), image_size=8)
    assert decode_to_memory(mixed).read(np.arange(2))[1].tolist() == [0, 1]


def test_records_that_cannot_be_read():
    with pytest.raises(UserError, match=r"files of pets train cannot be read: .*prepared anew"):
        split(record(0)).read(np.array([1]))
