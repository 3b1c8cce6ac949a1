"""Tiny-ImageNet and CIFAR from archives made here."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from amdjax.data import ImageSource, load_dataset
from amdjax.errors import UserError
from tests.make_data import (
    class_images,
    data_settings,
    encode,
    manual_archive,
    write_cifar10_archive,
    write_tiny_imagenet_zip,
)

ANNOTATIONS = "tiny-imagenet-200/val/val_annotations.txt"
IMAGE = "tiny-imagenet-200/val/images/val_1.JPEG"


def everything(split: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    return split.read(np.arange(len(split)))


@pytest.fixture
def no_network(monkeypatch):
    def fail(self, url):
        raise ConnectionError(f"no route\nto {url}")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)


def assert_nothing_prepared(data_dir: Path) -> None:
    assert not list(data_dir.glob("**/dataset_info.json"))
    assert not list(data_dir.glob("**/*.array_record*"))


def test_tiny_imagenet(tmp_path):
    write_tiny_imagenet_zip(
        manual_archive(tmp_path, "tiny-imagenet-200.zip"), classes=3, per_class=4
    )
    dataset = load_dataset(data_settings("tiny_imagenet", tmp_path))
    # Classes are sorted, although wnids.txt is not.
    assert dataset.class_names[:2] == ("n00000001 word n00000001", "n00000002 word n00000002")
    assert dataset.image_shape == (64, 64, 3)
    images, labels = everything(dataset.train)
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 4))
    assert (images[0] == images[0][..., :1]).all()  # the grey one
    assert (images[1] != images[1][..., :1]).any()
    colours = class_images(3, 6, 64, 0).mean((2, 3))  # [class,image,3]; JPEG keeps the means
    np.testing.assert_allclose(images.mean((1, 2))[1:], colours[:, :4].reshape(12, 3)[1:], atol=6)
    images, labels = everything(dataset.test)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(images.mean((1, 2)), colours[:, 4:].reshape(6, 3), atol=6)


def rewrite_zip(path: Path, name: str, data: bytes | None) -> None:
    """Replaces a file of a zip archive, or leaves it out."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    del files[name]
    if data is not None:
        files[name] = data
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in files.items():
            archive.writestr(key, value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            IMAGE,
            encode(np.zeros([64, 64, 3], np.uint8), "JPEG")[:400],
            f"zip: {IMAGE} cannot be dec",
        ),
        (IMAGE, None, f"not a whole .*zip: {IMAGE}"),
        ("tiny-imagenet-200/wnids.txt", None, "not a whole .*wnids.txt"),
        (
            ANNOTATIONS,
            b"val_0.JPEG\tn99999999\t0\t0\t1\t1\n",
            "label 'n99999999' is not in wnids.txt",
        ),
        (ANNOTATIONS, b"", "lists no images"),
        (ANNOTATIONS, b"\xff\xfe\n", "not a whole .*val_annotations.txt"),
    ],
)
def test_tiny_imagenet_with_a_fault(tmp_path, name, data, message):
    path = write_tiny_imagenet_zip(manual_archive(tmp_path, "tiny-imagenet-200.zip"))
    rewrite_zip(path, name, data)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(data_settings("tiny_imagenet", tmp_path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_nothing_prepared(tmp_path)


@pytest.mark.parametrize("cut", [100, -3000])
def test_corrupt_zip_is_named(tmp_path, cut):
    path = write_tiny_imagenet_zip(manual_archive(tmp_path, "tiny-imagenet-200.zip"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=f"{path} is not a whole tiny-imagenet-200.zip"):
        load_dataset(data_settings("tiny_imagenet", tmp_path))


def test_zip_with_a_flipped_byte_is_named(tmp_path):
    path = write_tiny_imagenet_zip(manual_archive(tmp_path, "tiny-imagenet-200.zip"))
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8") + 700] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"zip: tiny-imagenet-200/train/.*Bad CRC-32"):
        load_dataset(data_settings("tiny_imagenet", tmp_path))


def test_images_of_different_sizes(tmp_path):
    path = write_tiny_imagenet_zip(manual_archive(tmp_path, "tiny-imagenet-200.zip"))
    rewrite_zip(path, IMAGE, encode(np.zeros([48, 64, 3], np.uint8), "JPEG"))
    with pytest.raises(UserError, match=r"test example 1 \(.*val_1.JPEG\) is 48x64, not 64x64"):
        load_dataset(data_settings("tiny_imagenet", tmp_path))
    assert load_dataset(data_settings("tiny_imagenet", tmp_path, image_size=40)).image_shape == (
        40,
        40,
        3,
    )


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
    ],
)
def test_missing_archive_says_where_to_put_it(tmp_path, no_network, name, archive):
    with pytest.raises(
        UserError, match=f"no route to http.*put it at {manual_archive(tmp_path, archive)}$"
    ):
        load_dataset(data_settings(name, tmp_path))
    assert_nothing_prepared(tmp_path)


def test_cifar10(tmp_path):
    written = write_cifar10_archive(manual_archive(tmp_path, "cifar-10-binary.tar.gz"), per_file=12)
    dataset = load_dataset(data_settings("cifar10", tmp_path))
    assert (tmp_path / "cifar10/3.0.2/dataset_info.json").exists()
    assert dataset.class_names == tuple(f"class{label}" for label in range(10))
    assert dataset.image_shape == (32, 32, 3)
    for split, expected in ((dataset.train, written[:5]), (dataset.test, written[5:])):
        images, labels = everything(split)
        expected = expected.reshape(-1, 32, 32, 3)
        key = {image.tobytes(): index % 12 % 10 for index, image in enumerate(expected)}
        assert len(images) == len(expected) == len(key)
        assert [key[image.tobytes()] for image in images] == labels.tolist()


def test_cifar10_prepared_elsewhere_is_read_as_it_is(tmp_path):
    write_cifar10_archive(manual_archive(tmp_path, "cifar-10-binary.tar.gz"))
    load_dataset(data_settings("cifar10", tmp_path))
    manual_archive(tmp_path, "cifar-10-binary.tar.gz").unlink()
    stock = tfds.builder("cifar10", data_dir=tmp_path)  # tfds's own class knows the files
    assert type(stock).__module__.startswith("tensorflow_datasets.")
    assert stock.info.splits["train"].num_examples == 20
    assert len(load_dataset(data_settings("cifar10", tmp_path)).train) == 20


@pytest.mark.parametrize("per_file", [0, None])
def test_cifar10_archive_with_a_fault(tmp_path, per_file):
    path = manual_archive(tmp_path, "cifar-10-binary.tar.gz")
    if per_file is None:
        write_cifar10_archive(path)
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        write_cifar10_archive(path, per_file)
    with pytest.raises(UserError, match=f"{path}"):
        load_dataset(data_settings("cifar10", tmp_path))
    assert_nothing_prepared(tmp_path)


def test_cifar100_learns_the_fine_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, [100, 3072], np.uint8)
    fine = np.arange(100, dtype=np.uint8)[:, None]
    records = np.concatenate([fine // 5, fine, images], axis=1).tobytes()
    files = {
        "coarse_label_names.txt": "\n".join(f"coarse{label}" for label in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine{label}" for label in range(100)).encode(),
        "train.bin": records,
        "test.bin": records,
    }
    path = manual_archive(tmp_path, "cifar-100-binary.tar.gz")
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    dataset = load_dataset(data_settings("cifar100", tmp_path))
    assert dataset.class_names == tuple(f"fine{label}" for label in range(100))
    read, labels = everything(dataset.train)
    planes = read.transpose(0, 3, 1, 2).reshape(100, 3072)
    np.testing.assert_array_equal(planes, images[labels])
    assert sorted(labels.tolist()) == list(range(100))
