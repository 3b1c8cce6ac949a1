"""Small generated data sets, and the config to load them."""

import io
from pathlib import Path

import ml_collections
import numpy as np
from PIL import Image


def data_settings(name: str, data_dir: Path, **changes) -> ml_collections.ConfigDict:
    """Returns `config.data` for a data set that is held in memory, with changes."""
    data = ml_collections.ConfigDict(
        {
            "name": name,
            "data_dir": str(data_dir),
            "folder": "",
            "validation": 0.0,
            "validation_seed": 0,
            "validation_split": "",
            "unknown_classes": (),
            "image_size": 0,
            "memory_gib": 1.0,
            "random_resized_crop": False,
        }
    )
    data.update(changes)
    return data


def class_images(classes: int, per_class: int, size: int, seed: int) -> np.ndarray:
    """Returns uint8 [classes,per_class,size,size,3]: one colour per class, plus noise."""
    colours = np.random.default_rng(0).uniform(40, 215, [classes, 1, 1, 1, 3])
    noise = np.random.default_rng([seed, 1]).normal(0, 25, [classes, per_class, size, size, 3])
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns uniform uint8 values of the given shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode(image: np.ndarray, file_format: str = "PNG") -> bytes:
    """Returns an image [H,W,3] or [H,W], of a dtype that Pillow supports, as an image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format)
    return file.getvalue()


def write_folder(
    root: Path, classes: int = 4, per_class: int = 8, size: int = 32, seed: int = 0
) -> Path:
    """Writes root/{train,test}/class_N/NNN.png, half as many images in test, and returns root."""
    for split, count in (("train", per_class), ("test", max(1, per_class // 2))):
        images = class_images(classes, count, size, seed + len(split))
        for label in range(classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for index, image in enumerate(images[label]):
                (folder / f"{index:03d}.png").write_bytes(encode(image))
    return root
