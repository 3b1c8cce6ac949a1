import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import read_all, rewrite_zip, write_tiny_imagenet
from tests.make_data import class_images, data_settings, encode

NAMES = "tiny_imagenet/1.0.0/label.labels.txt"  # in the data directory
IMAGE = "tiny-imagenet-200/val/images/val_1.JPEG"


def test_tiny_imagenet_has_images_and_labels_of_the_archive(tmp_path):
    write_tiny_imagenet(tmp_path, classes=3, per_class=4)
    dataset = load_dataset(data_settings("tiny_imagenet", tmp_path))
    # Classes are sorted, although wnids.txt is not.
    assert dataset.class_names[:2] == ("n00000001 word n00000001", "n00000002 word n00000002")
    assert dataset.image_shape == (64, 64, 3)
    images, labels = read_all(dataset.train)
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 4))
    assert (images[0] == images[0][..., :1]).all()  # the grey one
    assert (images[1] != images[1][..., :1]).any()
    colours = class_images(3, 6, 64, 0).mean((2, 3))  # [class,image,3]; JPEG preserves the means
    np.testing.assert_allclose(images.mean((1, 2))[1:], colours[:, :4].reshape(12, 3)[1:], atol=6)
    images, labels = read_all(dataset.test)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(images.mean((1, 2)), colours[:, 4:].reshape(6, 3), atol=6)


def test_tiny_imagenet_with_images_of_different_sizes_needs_image_size(tmp_path):
    path = write_tiny_imagenet(tmp_path)
    rewrite_zip(path, IMAGE, encode(np.zeros([48, 64, 3], np.uint8), "JPEG"))
    with pytest.raises(UserError, match=r"test example 1 \(.*val_1.JPEG\) is 48x64, not 64x64"):
        load_dataset(data_settings("tiny_imagenet", tmp_path))
    resized = load_dataset(data_settings("tiny_imagenet", tmp_path, image_size=40))
    assert resized.image_shape == (40, 40, 3)


@pytest.mark.parametrize(("lines", "count"), [(0, 0), (2, 2)])
def test_tiny_imagenet_prepared_without_all_class_names_is_refused(tmp_path, lines, count):
    write_tiny_imagenet(tmp_path)
    load_dataset(data_settings("tiny_imagenet", tmp_path))
    file = tmp_path / NAMES
    names = file.read_text().splitlines(keepends=True)
    file.write_text("".join(names[:lines]))
    message = f"{file} cannot be read: it has {count} names of 3 classes; remove {file.parent} and"
    with pytest.raises(UserError, match=message):
        load_dataset(data_settings("tiny_imagenet", tmp_path))
