"""Every builder with every kind of damage: one line that names the archive, nothing prepared.

The environment variable AMDJAX_FLIPS is the number of bits that are flipped in each archive.
"""

import gzip
import io
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from amdjax.data import load_dataset
from amdjax.errors import UserError
from tests.data.archives import (
    CINIC10_IMAGES,
    DEVKIT,
    MNIST_IMAGES,
    SVHN_IMAGES,
    WNIDS,
    cinic10_files,
    idx_bytes,
    manual_path,
    read_all,
    rewrite_tar,
    rewrite_zip,
    tar_bytes,
    write_cifar10,
    write_cifar100,
    write_cinic10,
    write_devkit,
    write_imagenet,
    write_mnist,
    write_svhn,
    write_tiny_imagenet,
)
from tests.make_data import data_settings, encode

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
CIFAR10, CIFAR100 = "cifar-10-binary.tar.gz", "cifar-100-binary.tar.gz"
CINIC10, TINY = "CINIC-10.tar.gz", "tiny-imagenet-200.zip"
FLIPS = int(os.environ.get("AMDJAX_FLIPS", "6"))
WRITERS: dict[str, Callable[[Path], object]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "cinic10": write_cinic10,
    "fashion_mnist": partial(write_mnist, name="fashion_mnist"),
    "imagenet": write_imagenet,
    "mnist": partial(write_mnist, name="mnist"),
    "svhn_cropped": write_svhn,
    "tiny_imagenet": write_tiny_imagenet,
}
ARCHIVES = [
    ("cifar10", CIFAR10),
    ("cifar100", CIFAR100),
    ("cinic10", CINIC10),
    ("fashion_mnist", "fashion_mnist/t10k-labels-idx1-ubyte.gz"),
    ("imagenet", TRAIN),
    ("imagenet", VAL),
    ("imagenet", DEVKIT),
    ("mnist", "mnist/train-images-idx3-ubyte.gz"),
    ("mnist", "mnist/train-labels-idx1-ubyte.gz"),
    ("svhn_cropped", "test_32x32.mat"),
    ("tiny_imagenet", TINY),
]


def load(name: str, data_dir: Path):
    return load_dataset(data_settings(name, data_dir, image_size=32 if name == "imagenet" else 0))


def write_and_load(name: str, data_dir: Path):
    WRITERS[name](data_dir)
    return load(name, data_dir)


def check_refused(
    name: str, data_dir: Path, archive: str, message: str = "is damaged|cannot be read"
) -> None:
    """Makes sure that loading fails with one line, and that nothing is left that could be read."""
    with pytest.raises(UserError, match=message) as caught:
        load(name, data_dir)
    text = str(caught.value)
    assert str(manual_path(data_dir, archive)) in text
    assert re.search("download (it|them) again|cannot be read: Is a directory", text)
    assert "\n" not in text
    assert not list(data_dir.glob("**/dataset_info.json"))
    assert not list(data_dir.glob("**/*.array_record*"))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_end(content: bytes) -> bytes:
    # tar archives end with blocks of zeros; gzip files with a checksum.
    return content[:-10240] if content[-1024:] == bytes(1024) else content[:-5]


def unknown_compression(content: bytes) -> bytes:
    """Zstandard's magic number; in a gzip or zip file the number of the method alone."""
    if content[:2] == b"\x1f\x8b":
        return content[:2] + b"\x09" + content[3:]
    if content[:2] == b"PK":
        return patch_zip(content, method=99)
    return b"\x28\xb5\x2f\xfd" + content


def patch_zip(content: bytes, flags: int = 0, method: int = 0) -> bytes:
    """Sets flags and compression method of every file in a zip archive."""
    data = bytearray(content)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.find(signature)
        while position >= 0:
            data[position + offset] |= flags
            data[position + offset + 2] |= method
            position = data.find(signature, position + 4)
    return bytes(data)


@pytest.mark.parametrize(
    "damage",
    [cut, cut_end, unknown_compression, lambda _: b"", lambda _: b"<html>404</html>", "folder"],
    ids=["cut", "cut end", "unknown compression", "empty", "web page", "folder"],
)
@pytest.mark.parametrize(("name", "archive"), ARCHIVES)
def test_damaged_archive_is_refused(tmp_path, name, archive, damage):
    WRITERS[name](tmp_path)
    path = manual_path(tmp_path, archive)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage(content))
    check_refused(name, tmp_path, archive)


@pytest.mark.parametrize("name", WRITERS)
def test_data_are_prepared_after_the_archive_is_replaced(tmp_path, name):
    WRITERS[name](tmp_path)
    archive = next(file for dataset, file in ARCHIVES if dataset == name)
    path = manual_path(tmp_path, archive)
    content = path.read_bytes()
    path.write_bytes(cut(content))
    check_refused(name, tmp_path, archive)
    path.write_bytes(content)
    assert len(load(name, tmp_path).train) > 0


@pytest.mark.parametrize(
    ("name", "archive"),
    [(name, archive) for name, archive in ARCHIVES if archive not in (TRAIN, VAL)],
)
def test_flipped_bits_are_found_or_change_nothing(tmp_path, name, archive):
    WRITERS[name](tmp_path / "intact")
    intact = load(name, tmp_path / "intact")
    content = manual_path(tmp_path / "intact", archive).read_bytes()
    for number, position in enumerate(np.linspace(3, len(content) - 1, FLIPS).astype(int)):
        data_dir = tmp_path / str(number)
        WRITERS[name](data_dir)
        flipped = bytearray(content)
        flipped[position] ^= 0x10
        manual_path(data_dir, archive).write_bytes(flipped)
        try:
            dataset = load(name, data_dir)
        except UserError as error:
            assert archive in str(error)
            assert "\n" not in str(error)
        else:  # a date in a header, for example
            assert dataset.class_names == intact.class_names
            for split in ("train", "test"):
                for one, other in zip(
                    read_all(getattr(dataset, split)), read_all(getattr(intact, split)), strict=True
                ):
                    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("archive", [TRAIN, VAL])
@pytest.mark.parametrize("block", [0, -1])
def test_flipped_bits_in_headers_of_imagenet_are_found(tmp_path, archive, block):
    write_imagenet(tmp_path)
    path = manual_path(tmp_path, archive)
    data = bytearray(path.read_bytes())
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    data[headers[block] + 124] ^= 0x01  # of the size
    path.write_bytes(data)
    check_refused("imagenet", tmp_path, archive)


def names_of(count: int, **changes: str) -> bytes:
    names = [changes.get(f"n{label}", f"class{label}") for label in range(count)]
    return ("\n".join(names) + "\n").encode("latin-1")


HALF_PNG = encode(CINIC10_IMAGES[0, 0, 0])[:400]
CIFAR10_RECORD = bytes([10]) + bytes(3072)
CIFAR100_RECORD = bytes([20, 5]) + bytes(3072)
ROOT = "tiny-imagenet-200/"
FILES = [  # data set, archive, file, content (None: removed), message
    ("cifar10", CIFAR10, "batches.meta.txt", names_of(3), "has 3 class names, not 10"),
    ("cifar10", CIFAR10, "batches.meta.txt", names_of(10, n4="class7"), "'class7' twice"),
    ("cifar10", CIFAR10, "batches.meta.txt", names_of(10, n4="\x00\x01"), "is not a list of"),
    ("cifar10", CIFAR10, "batches.meta.txt", names_of(10, n4="\xff"), "can't decode byte"),
    ("cifar10", CIFAR10, "batches.meta.txt", None, "batches.meta.txt is missing"),
    ("cifar10", CIFAR10, "data_batch_3.bin", None, "data_batch_3.bin is missing"),
    ("cifar10", CIFAR10, "data_batch_3.bin", b"", "not hold a whole number"),
    ("cifar10", CIFAR10, "test_batch.bin", bytes(3000), "not hold a whole number"),
    ("cifar10", CIFAR10, "test_batch.bin", CIFAR10_RECORD, "label outside the classes"),
    ("cifar100", CIFAR100, "fine_label_names.txt", names_of(3), "has 3 class names, not 100"),
    ("cifar100", CIFAR100, "coarse_label_names.txt", names_of(3), "has 3 class names, not 20"),
    ("cifar100", CIFAR100, "train.bin", CIFAR100_RECORD, "label outside the classes"),
    ("cinic10", CINIC10, "train/cat/n2-0.png", HALF_PNG, "cat/n2-0"),
    ("imagenet", TRAIN, "n02.tar", None, r"has no n02\.tar with images"),
    ("imagenet", TRAIN, "n02.tar", b"", r"n02\.tar: it is not a tar archive"),
    ("imagenet", TRAIN, "n02.tar", tar_bytes([]), r"has no n02\.tar with images"),
    ("imagenet", TRAIN, "n02.tar", tar_bytes([("a", bytes(99))])[:600], "n02.tar: unexpected end"),
    ("imagenet", VAL, "ILSVRC2012_val_00000002.JPEG", None, "has 3 images"),
    ("imagenet", DEVKIT, "meta.mat", None, "meta.mat"),
    ("imagenet", DEVKIT, "meta.mat", b"x" * 999, "meta.mat"),
    ("imagenet", DEVKIT, "ILSVRC2012_validation_ground_truth.txt", b"a\n", "invalid literal"),
    ("tiny_imagenet", TINY, f"{ROOT}val/images/val_1.JPEG", None, "no item named"),
    ("tiny_imagenet", TINY, f"{ROOT}wnids.txt", None, "no item named"),
    ("tiny_imagenet", TINY, f"{ROOT}wnids.txt", b"", "label 'n00000001' is not in wnids.txt"),
    ("tiny_imagenet", TINY, f"{ROOT}wnids.txt", b"n00000001\n" * 3, "'n00000001' twice"),
    ("tiny_imagenet", TINY, f"{ROOT}wnids.txt", b"n00000001\n\x01\n", "not a list of class names"),
    ("tiny_imagenet", TINY, f"{ROOT}wnids.txt", b"n00000001\n", "'n00000002' is not in wnids.txt"),
    (
        "tiny_imagenet",
        TINY,
        f"{ROOT}wnids.txt",
        b"n00000001\nn00000002\nn00000003\nn00000004\n",
        "has no .*/train/n00000004",
    ),
    ("tiny_imagenet", TINY, f"{ROOT}val/val_annotations.txt", b"", "lists no images"),
    ("tiny_imagenet", TINY, f"{ROOT}val/val_annotations.txt", b"\xff\xfe\n", "can't decode byte"),
    ("tiny_imagenet", TINY, f"{ROOT}val/val_annotations.txt", b"val_0.JPEG\tn9\t0\n", "label 'n9'"),
]


@pytest.mark.parametrize(
    ("name", "archive", "file", "content", "message"),
    FILES,
    ids=[f"{name}-{message}" for name, _, _, _, message in FILES],
)
def test_archive_with_a_damaged_file_is_refused(tmp_path, name, archive, file, content, message):
    WRITERS[name](tmp_path)
    path = manual_path(tmp_path, archive)
    (rewrite_zip if archive == TINY else rewrite_tar)(path, file, content)
    if file.endswith(".png"):
        message += ".* cannot be decoded as an image"
    check_refused(name, tmp_path, archive, message)


CINIC10_FILES = {
    "no files": ([], "has no train/CLASS"),
    "unknown class": ([("train/tank/1.png", b"")], "label 'tank' is not one of CINIC-10's"),
    "no test": ([entry for entry in cinic10_files() if "test" not in entry[0]], "has no test/CL"),
}


@pytest.mark.parametrize(("files", "message"), CINIC10_FILES.values(), ids=CINIC10_FILES)
def test_cinic10_without_its_files_is_refused(tmp_path, files, message):
    write_cinic10(tmp_path, files)
    check_refused("cinic10", tmp_path, CINIC10, message)


@pytest.mark.parametrize(
    ("flags", "method", "message"), [(1, 0, "is encrypted"), (0, 99, "compression")]
)
def test_encrypted_or_strange_zip_is_refused(tmp_path, flags, method, message):
    path = write_tiny_imagenet(tmp_path)
    path.write_bytes(patch_zip(path.read_bytes(), flags, method))
    check_refused("tiny_imagenet", tmp_path, TINY, message)


IMAGES_IDX, LABELS_IDX = idx_bytes(MNIST_IMAGES[0]), idx_bytes(np.array([3, 0, 9, 1, 1]))
HUGE = b"\xff" * 12
IDX = [  # file, content, message
    ("train-images-idx3", b"\0\0\x08\x02" + IMAGES_IDX[4:], "not an IDX file of 3 dimensions"),
    ("train-images-idx3", b"\0\0\x0d\x03" + IMAGES_IDX[4:], "not an IDX file of 3 dimensions"),
    ("train-images-idx3", IMAGES_IDX[:4] + HUGE + IMAGES_IDX[16:], "header says 4294967295x"),
    ("train-images-idx3", IMAGES_IDX[:10], "not an IDX file"),
    ("train-images-idx3", IMAGES_IDX[:-1], "header says 5x28x28 bytes, it has 3919"),
    ("train-images-idx3", idx_bytes(MNIST_IMAGES[0, :, :14]), "not 28x28"),
    ("train-images-idx3", idx_bytes(MNIST_IMAGES[0, :0]), "is empty"),
    ("train-images-idx3", b"", "not an IDX file"),
    ("train-labels-idx1", LABELS_IDX + b"\0", "header says 5 bytes, it has 6"),
    ("train-labels-idx1", idx_bytes(np.zeros(0)), "is empty"),
    ("train-labels-idx1", idx_bytes(np.array([3, 0, 10, 1, 1])), "label 10 is outside"),
    ("t10k-labels-idx1", idx_bytes(np.arange(3)), "has 5 images, .* 3 labels"),
]


@pytest.mark.parametrize(
    ("file", "content", "message"), IDX, ids=[f"{file}-{message}" for file, _, message in IDX]
)
def test_mnist_with_a_wrong_idx_file_is_refused(tmp_path, file, content, message):
    write_mnist(tmp_path, "mnist")
    archive = f"mnist/{file}-ubyte.gz"
    manual_path(tmp_path, archive).write_bytes(gzip.compress(content))
    check_refused("mnist", tmp_path, archive, message)


def svhn_bytes(**variables: np.ndarray) -> bytes:
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


X, Y = SVHN_IMAGES[0].transpose(1, 2, 3, 0), np.array([[10], [1], [9], [5]])
MATLAB = [
    (svhn_bytes(X=X, y=Y + 1), r"label is outside the classes 1\.\.10"),
    (svhn_bytes(X=X, y=Y * np.nan), r"label is outside the classes 1\.\.10"),
    (svhn_bytes(X=X[:30], y=Y), r"uint8 \[4, 30, 32, 3\], not uint8 \[4, 32, 32, 3\]"),
    (svhn_bytes(X=X.astype(float), y=Y), "are float64"),
    (svhn_bytes(X=X, y=Y[:2]), r"not uint8 \[2, 32, 32, 3\]"),
    (svhn_bytes(X=X[..., :0], y=Y[:0]), "is empty"),
    (svhn_bytes(X=X), "variable 'y' is missing"),
    (svhn_bytes(X=X, y=np.array([[w] for w in "abcd"])), "label is outside"),
    (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(384), "is damaged"),
]


@pytest.mark.parametrize(("content", "message"), MATLAB, ids=[message for _, message in MATLAB])
def test_svhn_with_a_wrong_matlab_file_is_refused(tmp_path, content, message):
    write_svhn(tmp_path)
    manual_path(tmp_path, "train_32x32.mat").write_bytes(content)
    check_refused("svhn_cropped", tmp_path, "train_32x32.mat", message)


@pytest.mark.parametrize(
    ("archive", "changes", "message"),
    [
        (DEVKIT, {"truth": (1, 2, 3, 7)}, r"label outside the classes 1\.\.3"),
        (DEVKIT, {"truth": ()}, r"label outside the classes 1\.\.3"),
        (VAL, {"truth": (1, 2, 3, 1, 1)}, "has 4 images, the development kit 5 labels"),
        (DEVKIT, {"wnids": ("n02", "n01", "n01")}, "'n01' twice"),
        (TRAIN, {"wnids": (*WNIDS, "n09")}, r"has no n09\.tar with images"),
        (TRAIN, {"wnids": ("n02", "n01", "n08")}, "label 'n03' is not in the development kit"),
    ],
)
def test_imagenet_with_another_development_kit_is_refused(tmp_path, archive, changes, message):
    write_imagenet(tmp_path)
    write_devkit(tmp_path, **changes)
    check_refused("imagenet", tmp_path, archive, message)
