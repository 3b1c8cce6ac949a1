from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path, read_all
from tests.make_data import data_settings, random_images

IMAGES = random_images(2, 4, 32, 32, 3)


def write_svhn(
    data_dir: Path, labels: Sequence[int] = (10, 1, 9, 5), images: np.ndarray = IMAGES
) -> None:
    for split, split_images in zip(("train", "test"), images, strict=True):
        content = {"X": split_images.transpose(1, 2, 3, 0), "y": np.array(labels)[:, None]}
        savemat(manual_path(data_dir, f"{split}_32x32.mat"), content)


def test_svhn_has_images_and_labels_of_the_files(tmp_path):
    write_svhn(tmp_path)
    dataset = load_dataset(data_settings("svhn_cropped", tmp_path))
    for source, expected in zip((dataset.train, dataset.test), IMAGES, strict=True):
        images, labels = read_all(source)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, [0, 1, 9, 5])


def test_svhn_error_on_a_label_outside_the_classes(tmp_path):
    write_svhn(tmp_path, labels=(0, 1, 2, 3))
    with pytest.raises(UserError, match=r"32\.mat: a label is outside the classes 1\.\.10"):
        load_dataset(data_settings("svhn_cropped", tmp_path))


def test_svhn_error_on_images_of_another_shape(tmp_path):
    write_svhn(tmp_path, images=IMAGES[:, :, :30])
    message = r"the images are uint8 \[4, 30, 32, 3\], not uint8 \[4, 32, 32, 3\]"
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("svhn_cropped", tmp_path))


def test_svhn_error_names_a_truncated_file(tmp_path):
    write_svhn(tmp_path)
    path = manual_path(tmp_path, "test_32x32.mat")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"test_32x32\.mat is damaged"):
        load_dataset(data_settings("svhn_cropped", tmp_path))
