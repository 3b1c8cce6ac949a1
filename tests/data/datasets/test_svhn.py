import numpy as np

from amdjax.data import load_dataset
from tests.data.archives import SVHN_IMAGES, read_all, write_svhn
from tests.make_data import data_settings


def test_svhn_has_images_and_labels_of_the_files(tmp_path):
    write_svhn(tmp_path)
    dataset = load_dataset(data_settings("svhn_cropped", tmp_path))
    for source, expected in zip((dataset.train, dataset.test), SVHN_IMAGES, strict=True):
        images, labels = read_all(source)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, [0, 1, 9, 5])
