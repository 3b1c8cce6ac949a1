import numpy as np
import tensorflow_datasets as tfds

from amdjax.data import load_dataset
from tests.data.archives import manual_path, read_all, write_cifar10, write_cifar100
from tests.make_data import data_settings


def test_cifar10_has_images_and_labels_of_the_archive(tmp_path):
    written = write_cifar10(tmp_path, per_file=12)
    dataset = load_dataset(data_settings("cifar10", tmp_path))
    assert (tmp_path / "cifar10/3.0.2/dataset_info.json").exists()
    assert dataset.class_names == tuple(f"class{label}" for label in range(10))
    assert dataset.image_shape == (32, 32, 3)
    for source, expected in ((dataset.train, written[:5]), (dataset.test, written[5:])):
        images, labels = read_all(source)
        expected = expected.reshape(-1, 32, 32, 3)
        label_of = {image.tobytes(): index % 12 % 10 for index, image in enumerate(expected)}
        assert len(images) == len(expected) == len(label_of)
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_cifar10_files_are_interchangeable_with_those_of_tfds(tmp_path):
    write_cifar10(tmp_path)
    load_dataset(data_settings("cifar10", tmp_path))
    manual_path(tmp_path, "cifar-10-binary.tar.gz").unlink()
    stock = tfds.builder("cifar10", data_dir=tmp_path)
    assert type(stock).__module__.startswith("tensorflow_datasets.")
    assert stock.info.splits["train"].num_examples == 20
    assert len(load_dataset(data_settings("cifar10", tmp_path)).train) == 20


def test_cifar100_has_the_fine_labels(tmp_path):
    planes = write_cifar100(tmp_path)
    dataset = load_dataset(data_settings("cifar100", tmp_path))
    assert dataset.class_names == tuple(f"fine{label}" for label in range(100))
    images, labels = read_all(dataset.train)
    np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(100, 3072), planes[labels])
    assert sorted(labels.tolist()) == list(range(100))
