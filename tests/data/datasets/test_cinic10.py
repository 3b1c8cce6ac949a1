from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from amdjax.data import Dataset, load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path, read_all, tar_bytes
from tests.make_data import data_settings, encode, random_images

CLASSES = ("truck", "airplane", "cat")
IMAGES = random_images(3, 3, 2, 32, 32, 3)  # [split,class,image,H,W,3]


def archive_files() -> Iterator[tuple[str, bytes]]:
    for s, split in enumerate(("valid", "train", "test")):
        for c, class_name in enumerate(CLASSES):
            for i, image in enumerate(IMAGES[s, c]):
                is_grey = (s, c, i) == (1, 0, 0)
                data = encode(image[..., 0] if is_grey else image)
                yield f"{split}/{class_name}/n{c}-{i}.png", data
    yield "README", b"words"


def load(data_dir: Path, files: Iterable[tuple[str, bytes]], end: int | None = None) -> Dataset:
    """Loads CINIC-10 from an archive of these files, cut off after `end` bytes."""
    manual_path(data_dir, "CINIC-10.tar.gz").write_bytes(tar_bytes(files, "gz")[:end])
    return load_dataset(data_settings("cinic10", data_dir))


def test_cinic10_has_train_and_test_images_without_valid(tmp_path):
    dataset = load(tmp_path, archive_files())
    assert len(dataset.class_names) == 10
    assert [dataset.class_names[i] for i in (9, 0, 3)] == list(CLASSES)
    for source, s in ((dataset.train, 1), (dataset.test, 2)):
        images, labels = read_all(source)
        np.testing.assert_array_equal(labels, [9, 9, 0, 0, 3, 3])
        np.testing.assert_array_equal(images[1:], IMAGES[s].reshape(6, 32, 32, 3)[1:])
    grey = read_all(dataset.train)[0][0]
    np.testing.assert_array_equal(grey, np.repeat(IMAGES[1, 0, 0, :, :, :1], 3, axis=2))


def test_cinic10_error_names_an_unknown_class(tmp_path):
    with pytest.raises(UserError, match=r"label 'tank' is not one of CINIC"):
        load(tmp_path, [("train/tank/1.png", encode(IMAGES[0, 0, 0]))])


def test_cinic10_error_names_a_missing_split(tmp_path):
    with pytest.raises(UserError, match=r"CINIC-10\.tar\.gz has no test/CLASS"):
        load(tmp_path, [("train/cat/1.png", encode(IMAGES[0, 0, 0]))])


def test_cinic10_error_names_a_truncated_archive(tmp_path):
    with pytest.raises(UserError, match=r"CINIC-10\.tar\.gz is damaged"):
        load(tmp_path, archive_files(), end=20_000)
