"""Archives in the official layouts of the data sets, with a few generated images."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from amdjax.data import ImageSource
from tests.make_data import class_images, encode, random_images


def read_all(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images, uint8 [n,H,W,3], and labels, int32 [n], of a source."""
    return source.read(np.arange(len(source)))


def manual_path(data_dir: Path, name: str) -> Path:
    """Returns the path at which a builder expects the user's archive; creates its folder."""
    path = data_dir / "downloads" / "manual" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def tar_bytes(files: Iterable[tuple[str, bytes]], compression: str = "") -> bytes:
    """Returns a tar archive of (name, content) pairs; compression: "" or "gz"."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{compression}") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def write_tiny_imagenet(data_dir: Path, classes: int = 3, per_class: int = 4) -> Path:
    """Writes Tiny-ImageNet's zip file: 64x64 JPEG, two validation images per class.

    The first training image of the first class, n00000001, is grey. Returns the path.
    """
    path = manual_path(data_dir, "tiny-imagenet-200.zip")
    wnids = [f"n{label + 1:08d}" for label in range(classes)]
    images = class_images(classes, per_class + 2, 64, 0)
    annotations = []
    with zipfile.ZipFile(path, "w") as archive:

        def write(name: str, data: str | bytes) -> None:
            archive.writestr(f"tiny-imagenet-200/{name}", data)

        write("wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(wnids)))
        write("words.txt", "".join(f"{wnid}\tword {wnid}, other word\n" for wnid in wnids))
        for label, wnid in enumerate(wnids):
            for index in range(per_class):
                image = images[label, index]
                is_grey = label == 0 and index == 0
                data = encode(image[..., 0] if is_grey else image, "JPEG")
                write(f"train/{wnid}/images/{wnid}_{index}.JPEG", data)
            for index in range(2):
                name = f"val_{len(annotations)}.JPEG"
                write(f"val/images/{name}", encode(images[label, per_class + index], "JPEG"))
                annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
        write("val/val_annotations.txt", "".join(annotations))
    return path


def rewrite_zip(path: Path, name: str, data: bytes | None) -> None:
    """Replaces a file of a zip archive, or removes it if data is None."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    del files[name]
    if data is not None:
        files[name] = data
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in files.items():
            archive.writestr(key, value)


def rewrite_tar(path: Path, name: str, data: bytes | None) -> None:
    """Replaces a file of a tar archive, in any folder, or removes it if data is None."""
    compression = "gz" if path.suffix == ".gz" else ""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    (full_name,) = (key for key in files if key == name or key.endswith(f"/{name}"))
    files = {key: data if key == full_name else value for key, value in files.items()}
    kept = [(key, value) for key, value in files.items() if value is not None]
    path.write_bytes(tar_bytes(kept, compression))


def write_cifar10(data_dir: Path, per_file: int = 4) -> np.ndarray:
    """Writes CIFAR-10's binary archive and returns its images.

    Args:
      data_dir: the directory of the prepared data sets.
      per_file: images in each of the five training files and in the test file; the label of
        image i of a file is i % 10.

    Returns:
      uint8 [6,per_file,32,32,3], the test file last.
    """
    images = random_images(6, per_file, 32, 32, 3)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    labels = np.arange(per_file, dtype=np.uint8)[:, None] % 10
    class_names = "".join(f"class{label}\n" for label in range(10)) + "\n"
    files = [("cifar-10-batches-bin/batches.meta.txt", class_names.encode())]
    for name, batch in zip(names, images, strict=True):
        planes = batch.transpose(0, 3, 1, 2).reshape(per_file, 3072)
        records = np.concatenate([labels, planes], axis=1).tobytes()
        files.append((f"cifar-10-batches-bin/{name}", records))
    manual_path(data_dir, "cifar-10-binary.tar.gz").write_bytes(tar_bytes(files, "gz"))
    return images


def write_cifar100(data_dir: Path) -> np.ndarray:
    """Writes CIFAR-100's binary archive, with the same images of all classes in both splits.

    Returns the pixels of the images, uint8 [100,3072].
    """
    planes = random_images(100, 3072)
    fine = np.arange(100, dtype=np.uint8)[:, None]
    records = np.concatenate([fine // 5, fine, planes], axis=1).tobytes()
    files = {
        "coarse_label_names.txt": "\n".join(f"coarse{label}" for label in range(20)).encode(),
        "fine_label_names.txt": "\n".join(f"fine{label}" for label in range(100)).encode(),
        "train.bin": records,
        "test.bin": records,
    }
    path = manual_path(data_dir, "cifar-100-binary.tar.gz")
    path.write_bytes(
        tar_bytes([(f"cifar-100-binary/{n}", data) for n, data in files.items()], "gz")
    )
    return planes


CINIC10_CLASSES = ("truck", "airplane", "cat")
CINIC10_IMAGES = random_images(3, 3, 2, 32, 32, 3)  # [split,class,image,H,W,3]


def cinic10_files() -> Iterator[tuple[str, bytes]]:
    """Yields the files of CINIC-10's archive, of which one is grey and one is not an image."""
    for s, split in enumerate(("valid", "train", "test")):
        for c, class_name in enumerate(CINIC10_CLASSES):
            for i, image in enumerate(CINIC10_IMAGES[s, c]):
                is_grey = (s, c, i) == (1, 0, 0)
                data = encode(image[..., 0] if is_grey else image)
                yield f"{split}/{class_name}/n{c}-{i}.png", data
    yield "README", b"words"


def write_cinic10(data_dir: Path, files: Iterable[tuple[str, bytes]] | None = None) -> None:
    """Writes CINIC-10's archive of these files, by default `cinic10_files`."""
    files = cinic10_files() if files is None else files
    manual_path(data_dir, "CINIC-10.tar.gz").write_bytes(tar_bytes(files, "gz"))


MNIST_IMAGES = random_images(2, 5, 28, 28)


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns an array as an IDX file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_mnist(data_dir: Path, name: str, labels: Sequence[int] = (3, 0, 9, 1, 1)) -> None:
    """Writes the four files of MNIST or Fashion-MNIST with `MNIST_IMAGES`."""
    for prefix, images in zip(("train", "t10k"), MNIST_IMAGES, strict=True):
        for content, array in (("images-idx3", images), ("labels-idx1", np.array(labels))):
            path = manual_path(data_dir, f"{name}/{prefix}-{content}-ubyte.gz")
            path.write_bytes(gzip.compress(idx_bytes(array)))


SVHN_IMAGES = random_images(2, 4, 32, 32, 3)


def write_svhn(
    data_dir: Path, labels: Sequence[int] = (10, 1, 9, 5), images: np.ndarray = SVHN_IMAGES
) -> None:
    """Writes the two compressed files of SVHN."""
    for split, split_images in zip(("train", "test"), images, strict=True):
        content = {"X": split_images.transpose(1, 2, 3, 0), "y": np.array(labels)[:, None]}
        savemat(manual_path(data_dir, f"{split}_32x32.mat"), content, do_compression=True)


WNIDS = ("n02", "n01", "n03")  # of ImageNet, by ILSVRC number, which is not the sorted order
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
IMAGENET_IMAGES = class_images(3, 4, 48, 0)


def write_devkit(
    data_dir: Path, truth: Sequence[int] = (2, 3, 1, 1), wnids: Sequence[str] = WNIDS
) -> None:
    """Writes ImageNet's development kit with the numbers of the validation images' classes."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(i + 1, wnid, f"word {wnid}, other", 0) for i, wnid in enumerate(wnids)]
    rows.append((len(rows) + 1, "n00", "inner node", 3))
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
    """Writes ImageNet's three archives: four training images a class, four validation images."""
    write_devkit(data_dir)
    train = []
    for c, wnid in enumerate(train_wnids):
        files = [
            (f"{wnid}_{i}.JPEG", encode(image[: 40 + i], "JPEG"))
            for i, image in enumerate(IMAGENET_IMAGES[c])
        ]
        train.append((f"{wnid}.tar", tar_bytes(files)))
    manual_path(data_dir, "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(train))
    val = [
        (f"ILSVRC2012_val_{i + 1:08d}.JPEG", encode(IMAGENET_IMAGES[c, 0], "JPEG"))
        for i, c in enumerate((1, 2, 0, 0))
    ]
    manual_path(data_dir, "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(val))
