import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amdjax.data import Dataset, TrainBatches, load_dataset
from amdjax.errors import UserError
from tests.data.archives import IMAGENET_IMAGES, read_all, write_imagenet
from tests.make_data import data_settings, encode


def load(data_dir: Path, **changes) -> Dataset:
    return load_dataset(data_settings("imagenet", data_dir, image_size=32, **changes))


def test_imagenet_has_images_and_labels_of_the_archives(tmp_path):
    write_imagenet(tmp_path)
    dataset = load(tmp_path)
    assert dataset.class_names == ("n01 word n01", "n02 word n02", "n03 word n03")
    images, labels = read_all(dataset.train)
    np.testing.assert_array_equal(labels, np.repeat([1, 0, 2], 4))
    assert images.shape == (12, 32, 32, 3)
    images, labels = read_all(dataset.test)
    np.testing.assert_array_equal(labels, [0, 2, 1, 1])
    colours = IMAGENET_IMAGES[[1, 2, 0, 0], 0].mean((1, 2))
    np.testing.assert_allclose(images.mean((1, 2)), colours, atol=8)


def test_random_resized_crop_depends_on_seed_epoch_and_example(tmp_path):
    write_imagenet(tmp_path)
    source = load(tmp_path, random_resized_crop=True).train
    indices = np.array([3, 7])
    first, _ = source.read(indices, crop_seed=(5, 0))
    np.testing.assert_array_equal(source.read(indices, crop_seed=(5, 0))[0], first)
    np.testing.assert_array_equal(source.read(indices[1:], crop_seed=(5, 0))[0], first[1:])
    for crop_seed in ((5, 1), (6, 0)):
        assert (source.read(indices, crop_seed)[0] != first).any()
    batches = TrainBatches(source, 6, seed=5)
    np.testing.assert_array_equal(batches[3]["image"], batches[3]["image"])
    expected, _ = source.read(batches.indices(3), crop_seed=(5, 1))
    np.testing.assert_array_equal(batches[3]["image"], expected)


def test_random_resized_crop_evaluates_the_centre_of_test_images(tmp_path):
    write_imagenet(tmp_path)
    test = load(tmp_path, random_resized_crop=True).test.read(np.array([0]))[0][0]
    image = Image.open(io.BytesIO(encode(IMAGENET_IMAGES[1, 0], "JPEG")))
    expected = image.crop((3, 3, 45, 45)).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(test[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=3)


def test_imagenet_needs_image_size(tmp_path):
    with pytest.raises(UserError, match="'imagenet' needs config"):
        load_dataset(data_settings("imagenet", tmp_path))


def test_imagenet_error_says_where_to_put_the_archives(tmp_path):
    with pytest.raises(UserError, match=r"put ILSVRC2012_img_train\.tar, from https"):
        load(tmp_path)
