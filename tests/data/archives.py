"""Archives in the official layouts of the data sets, with a few generated images."""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

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
