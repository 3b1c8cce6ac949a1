import numpy as np
import pytest
import tensorflow_datasets as tfds

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path, read_all, tar_bytes, write_cifar10
from tests.make_data import data_settings, random_images


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


@pytest.mark.parametrize(
    ("per_file", "end"), [(0, None), (4, -2000)], ids=["without images", "truncated"]
)
def test_cifar10_error_names_the_damaged_archive(tmp_path, per_file, end):
    write_cifar10(tmp_path, per_file)
    path = manual_path(tmp_path, "cifar-10-binary.tar.gz")
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match=f"{path}"):
        load_dataset(data_settings("cifar10", tmp_path))
    assert not list(tmp_path.glob("**/*.array_record*"))


def test_cifar100_has_the_fine_labels(tmp_path):
    planes = random_images(100, 3072)
    fine = np.arange(100, dtype=np.uint8)[:, None]
    records = np.concatenate([fine // 5, fine, planes], axis=1).tobytes()
    files = [
        ("coarse_label_names.txt", "\n".join(f"coarse{label}" for label in range(20)).encode()),
        ("fine_label_names.txt", "\n".join(f"fine{label}" for label in range(100)).encode()),
        ("train.bin", records),
        ("test.bin", records),
    ]
    path = manual_path(tmp_path, "cifar-100-binary.tar.gz")
    path.write_bytes(tar_bytes([(f"cifar-100-binary/{name}", data) for name, data in files], "gz"))
    dataset = load_dataset(data_settings("cifar100", tmp_path))
    assert dataset.class_names == tuple(f"fine{label}" for label in range(100))
    images, labels = read_all(dataset.train)
    np.testing.assert_array_equal(images.transpose(0, 3, 1, 2).reshape(100, 3072), planes[labels])
    assert sorted(labels.tolist()) == list(range(100))
