import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from amdjax.data import Dataset, TrainBatches, load_dataset
from amdjax.errors import UserError
from tests.data.archives import manual_path, read_all, tar_bytes
from tests.make_data import class_images, data_settings, encode

WNIDS = ("n02", "n01", "n03")  # by ILSVRC number, which is not the sorted order
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
IMAGES = class_images(3, 4, 48, 0)


def write_devkit(data_dir: Path, truth: Sequence[int] = (2, 3, 1, 1)) -> None:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(i + 1, wnid, f"word {wnid}, other", 0) for i, wnid in enumerate(WNIDS)]
    rows.append((4, "n00", "inner node", 3))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, fields)[:, None]})
    folder = "ILSVRC2012_devkit_t12/data"
    lines = "".join(f"{number}\n" for number in truth).encode()
    files = [
        (f"{folder}/meta.mat", meta.getvalue()),
        (f"{folder}/ILSVRC2012_validation_ground_truth.txt", lines),
    ]
    manual_path(data_dir, DEVKIT).write_bytes(tar_bytes(files, "gz"))


def write_imagenet(data_dir: Path, train_wnids: Sequence[str] = WNIDS) -> None:
    write_devkit(data_dir)
    train = []
    for c, wnid in enumerate(train_wnids):
        files = [
            (f"{wnid}_{i}.JPEG", encode(image[: 40 + i], "JPEG"))
            for i, image in enumerate(IMAGES[c])
        ]
        train.append((f"{wnid}.tar", tar_bytes(files)))
    manual_path(data_dir, "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(train))
    val = [
        (f"ILSVRC2012_val_{i + 1:08d}.JPEG", encode(IMAGES[c, 0], "JPEG"))
        for i, c in enumerate((1, 2, 0, 0))
    ]
    manual_path(data_dir, "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(val))


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
    colours = IMAGES[[1, 2, 0, 0], 0].mean((1, 2))
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
    image = Image.open(io.BytesIO(encode(IMAGES[1, 0], "JPEG")))
    expected = image.crop((3, 3, 45, 45)).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(test[2:-2, 2:-2], np.asarray(expected)[2:-2, 2:-2], atol=3)


def test_imagenet_needs_image_size(tmp_path):
    with pytest.raises(UserError, match="'imagenet' needs config"):
        load_dataset(data_settings("imagenet", tmp_path))


def test_imagenet_error_says_where_to_put_the_archives(tmp_path):
    with pytest.raises(UserError, match=r"put ILSVRC2012_img_train\.tar, from https"):
        load(tmp_path)


def test_imagenet_error_names_an_unknown_class(tmp_path):
    write_imagenet(tmp_path, train_wnids=("n02", "n09"))
    with pytest.raises(UserError, match="label 'n09' is not in the development kit"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ((1, 2, 3, 1, 1), r"img_val\.tar has 4 images, the development kit 5 labels"),
        ((1, 2, 3, 7), r"a label outside the classes 1\.\.3"),
    ],
)
def test_imagenet_error_on_wrong_validation_labels(tmp_path, truth, message):
    write_imagenet(tmp_path)
    write_devkit(tmp_path, truth)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_imagenet_error_names_a_damaged_development_kit(tmp_path):
    write_imagenet(tmp_path)
    manual_path(tmp_path, DEVKIT).write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"devkit_t12\.tar\.gz is damaged"):
        load(tmp_path)
