import numpy as np

from amdjax.data import load_dataset
from tests.data.archives import CINIC10_CLASSES, CINIC10_IMAGES, read_all, write_cinic10
from tests.make_data import data_settings


def test_cinic10_has_train_and_test_images_without_valid(tmp_path):
    write_cinic10(tmp_path)
    dataset = load_dataset(data_settings("cinic10", tmp_path))
    assert len(dataset.class_names) == 10
    assert [dataset.class_names[i] for i in (9, 0, 3)] == list(CINIC10_CLASSES)
    for source, s in ((dataset.train, 1), (dataset.test, 2)):
        images, labels = read_all(source)
        np.testing.assert_array_equal(labels, [9, 9, 0, 0, 3, 3])
        np.testing.assert_array_equal(images[1:], CINIC10_IMAGES[s].reshape(6, 32, 32, 3)[1:])
    grey = read_all(dataset.train)[0][0]
    np.testing.assert_array_equal(grey, np.repeat(CINIC10_IMAGES[1, 0, 0, :, :, :1], 3, axis=2))
