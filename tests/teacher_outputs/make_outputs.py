"""Data sets and arrays of outputs that several test files use."""

import dataclasses

import numpy as np

from amdjax.data import Dataset, InMemorySource
from amdjax.teacher_outputs.stored import open_outputs
from tests.make_data import random_images


def make_dataset(count=12, classes=4, **changes):
    images = random_images(count, 16, 16, 3)
    source = InMemorySource(images, np.arange(count, dtype=np.int32) % classes)
    names = tuple("abcdefgh"[:classes])
    return dataclasses.replace(Dataset("random", names, (16, 16, 3), source, source), **changes)


def make_arrays(count=12, views=None, classes=4):
    rng = np.random.default_rng(1)
    middle = () if views is None else (views,)
    return {
        "logits": rng.normal(size=(count, *middle, classes)).astype(np.float32),
        "embedding": rng.normal(size=(count, *middle, 5)).astype(np.float32),
        "attention_stage1": rng.uniform(size=(count, *middle, 4, 4)).astype(np.float32),
    }


def save_outputs(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return open_outputs(str(path))
