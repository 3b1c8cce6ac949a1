"""Data sets of generated images, for training where CIFAR-10 is not there.

Each class is a pattern of colours, and each image the pattern of its class in noise.
"""

import numpy as np

import amdjax

_CLASSES = tuple("abcdefghij")


def _generate(split: str, train: int, test: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    count = train if split == "train" else test
    labels = np.arange(count) % len(_CLASSES)
    coarse = np.random.default_rng(0).normal(0, 12, (len(_CLASSES), 4, 4, 3))
    patterns = coarse.repeat(size // 4, 1).repeat(size // 4, 2).astype(np.float32)
    rng = np.random.default_rng(1 if split == "train" else 2)
    noise = rng.standard_normal((count, size, size, 3), np.float32)
    return np.clip(128 + patterns[labels] + 50 * noise, 0, 255).astype(np.uint8), labels


@amdjax.register_dataset(
    "generated", "generated images of the number and size of CIFAR-10's", class_names=_CLASSES
)
def _generated(split: str) -> tuple[np.ndarray, np.ndarray]:
    return _generate(split, 50_000, 10_000, 32)


@amdjax.register_dataset(
    "generated_tiny", "320 generated images of 8x8, to try a command", class_names=_CLASSES
)
def _generated_tiny(split: str) -> tuple[np.ndarray, np.ndarray]:
    return _generate(split, 320, 80, 8)
