"""Small data sets in the layouts of the real ones."""

import io
import tarfile
import zipfile
from pathlib import Path

import ml_collections
import numpy as np
from PIL import Image


def data_settings(name: str, data_dir: Path, **changes) -> ml_collections.ConfigDict:
    """Returns `config.data` for a data set, all in memory, with changes."""
    data = ml_collections.ConfigDict(
        {
            "name": name,
            "data_dir": str(data_dir),
            "folder": "",
            "image_size": 0,
            "memory_gib": 1.0,
            "random_resized_crop": False,
        }
    )
    data.update(changes)
    return data


def manual_archive(data_dir: Path, name: str) -> Path:
    """Returns where an archive is looked for that was downloaded by hand."""
    return data_dir / "downloads" / "manual" / name


def class_images(classes: int, per_class: int, size: int, seed: int) -> np.ndarray:
    """Returns uint8 [classes,per_class,size,size,3]: a colour for each class, and noise."""
    colours = np.random.default_rng(0).uniform(40, 215, [classes, 1, 1, 1, 3])
    noise = np.random.default_rng([seed, 1]).normal(0, 25, [classes, per_class, size, size, 3])
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def encode(image: np.ndarray, file_format: str = "PNG") -> bytes:
    """Returns an image, uint8 [H,W,3] or [H,W], as an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format)
    return file.getvalue()


def write_folder(
    root: Path, classes: int = 4, per_class: int = 8, size: int = 32, seed: int = 0
) -> Path:
    """Writes root/{train,test}/class_N/NNN.png, half as many in test, and returns root."""
    for split, count in (("train", per_class), ("test", max(1, per_class // 2))):
        images = class_images(classes, count, size, seed + len(split))
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index, image in enumerate(images[label]):
                (folder / f"{index:03d}.png").write_bytes(encode(image))
    return root


def write_tiny_imagenet_zip(path: Path, classes: int = 3, per_class: int = 4) -> Path:
    """Writes the official layout, 64x64 JPEG, two validation images a class, one grey image.

    The grey one is the first training image of the first class, n00000001.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
                grey = label == 0 and index == 0
                data = encode(image[..., 0] if grey else image, "JPEG")
                write(f"train/{wnid}/images/{wnid}_{index}.JPEG", data)
            for index in range(2):
                name = f"val_{len(annotations)}.JPEG"
                write(f"val/images/{name}", encode(images[label, per_class + index], "JPEG"))
                annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
        write("val/val_annotations.txt", "".join(annotations))
    return path


def write_cifar10_archive(path: Path, per_file: int = 4) -> np.ndarray:
    """Writes the official binary layout and returns its images.

    Args:
      path: the tar.gz file.
      per_file: images in each of the five training files and in the test file; the label of
        image i of a file is i % 10.

    Returns:
      uint8 [6,per_file,32,32,3], the test file last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, [6, per_file, 32, 32, 3], np.uint8)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    labels = np.arange(per_file, dtype=np.uint8)[:, None] % 10
    files = {"batches.meta.txt": "".join(f"class{label}\n" for label in range(10)).encode() + b"\n"}
    for name, batch in zip(names, images, strict=True):
        planes = batch.transpose(0, 3, 1, 2).reshape(per_file, 3072)
        files[name] = np.concatenate([labels, planes], axis=1).tobytes()
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return images
