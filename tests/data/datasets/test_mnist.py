import numpy as np
import pytest

from amdjax.data import load_dataset
from tests.data.archives import MNIST_IMAGES, read_all, write_mnist
from tests.make_data import data_settings


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_has_images_and_labels_of_the_files(tmp_path, name):
    write_mnist(tmp_path, name)
    dataset = load_dataset(data_settings(name, tmp_path))
    assert dataset.image_shape == (28, 28, 3)
    assert dataset.class_names[9] == {"mnist": "9", "fashion_mnist": "Ankle boot"}[name]
    for source, expected in zip((dataset.train, dataset.test), MNIST_IMAGES, strict=True):
        images, labels = read_all(source)
        np.testing.assert_array_equal(images, np.repeat(expected[..., None], 3, axis=3))
        np.testing.assert_array_equal(labels, [3, 0, 9, 1, 1])
    larger = load_dataset(data_settings(name, tmp_path, image_size=32))
    assert larger.train.read(np.arange(2))[0].shape == (2, 32, 32, 3)
