import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path, read_all
from tests.make_data import data_settings, random_images

IMAGES = random_images(2, 5, 28, 28)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(data_dir: Path, name: str, labels: Sequence[int] = (3, 0, 9, 1, 1)) -> None:
    for prefix, images in zip(("train", "t10k"), IMAGES, strict=True):
        for content, array in (("images-idx3", images), ("labels-idx1", np.array(labels))):
            path = manual_path(data_dir, f"{name}/{prefix}-{content}-ubyte.gz")
            path.write_bytes(gzip.compress(idx_bytes(array)))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_has_images_and_labels_of_the_files(tmp_path, name):
    write_mnist(tmp_path, name)
    dataset = load_dataset(data_settings(name, tmp_path))
    assert dataset.image_shape == (28, 28, 3)
    assert dataset.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]
    for source, expected in zip((dataset.train, dataset.test), IMAGES, strict=True):
        images, labels = read_all(source)
        np.testing.assert_array_equal(images, np.repeat(expected[..., None], 3, axis=3))
        np.testing.assert_array_equal(labels, [3, 0, 9, 1, 1])
    larger = load_dataset(data_settings(name, tmp_path, image_size=32))
    assert larger.train.read(np.arange(2))[0].shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", b"no gzip", "train-images-idx3-ubyte.gz is damaged"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx_bytes(IMAGES[0])),
            "IDX file of 1 dimensions",
        ),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx_bytes(IMAGES[0])[:-1]), "is cut off"),
        (
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx_bytes(np.arange(3))),
            "5 images, .* 3 labels",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            gzip.compress(idx_bytes(np.arange(8, 13))),
            "label 12 is outside",
        ),
    ],
)
def test_mnist_error_names_the_damaged_file(tmp_path, file, content, message):
    write_mnist(tmp_path, "mnist")
    manual_path(tmp_path, f"mnist/{file}").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("mnist", tmp_path))
