"""Outputs of any teacher: `python -m amdjax.teacher_outputs --config=... --teacher=... --out=...`.

Calls a Python function for every training image of a config's data set, and writes what it returns
to a file for `config.teacher.outputs`.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from amdjax.cli import check_no_arguments, run_command
from amdjax.config import validate
from amdjax.data import Dataset, load_dataset
from amdjax.data.sources import CHUNK
from amdjax.data.unlabeled import NO_LABEL, add_unlabeled
from amdjax.errors import UserError, warn
from amdjax.files import check_writable, local_path
from amdjax.imports import apply_imports
from amdjax.teacher_outputs.compute import (
    Teacher,
    compute_outputs,
    load_teacher_function,
    reads_other_images,
)
from amdjax.teacher_outputs.output_warnings import stored_output_warnings
from amdjax.teacher_outputs.stored import check_images_unchanged, open_outputs
from amdjax.teacher_outputs.write import write_outputs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe of the students, for its data set and flips."
)
_TEACHER = flags.DEFINE_string(
    "teacher",
    None,
    "module:function, from images, uint8 RGB [B,H,W,3], to logits [B,C], or to a tuple (logits, "
    "embedding, features), or to a dictionary with these names.",
)
_OUT = flags.DEFINE_string("out", None, "File to write, NAME.npz, or folder of .npy files.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per call.", lower_bound=1)
_TEST = flags.DEFINE_bool("test", False, "Print the accuracy on the test split too.")
_LIST = flags.DEFINE_bool(
    "list",
    False,
    "Print the training images in their order as CSV (index,id,label,class), and exit.",
)


def main(arguments: list[str]) -> None:
    """Writes the outputs of a teacher, or prints the order of the training images."""
    check_no_arguments(arguments, "write each as --NAME=VALUE")
    config = _CONFIG.value
    if config is None:
        raise UserError("--config=NAME.py, the recipe of the students, is missing")
    apply_imports(config)
    validate(config)
    config.data.memory_gib = 0.0  # each image is read once
    if _LIST.value:
        writer = csv.writer(sys.stdout)
        writer.writerow(("index", "id", "label", "class"))
        writer.writerows(_list_images(_load(config.data)))
        return
    if _TEACHER.value is None or _OUT.value is None:
        raise UserError("--teacher=module:function or --out=NAME.npz is missing")
    check_images_unchanged(config, "--out")
    out = _check_out(local_path(_OUT.value, "--out"))
    teacher = load_teacher_function(_TEACHER.value)
    dataset = _load(config.data)
    check_writable(out.absolute().parent)  # before hours of computation
    _write(config, teacher, out, dataset)


def _load(data: ml_collections.ConfigDict) -> Dataset:
    """Opens the data set of the students."""
    return add_unlabeled(load_dataset(data), data)


def _list_images(dataset: Dataset) -> Iterator[tuple[int, str, int, str]]:
    """Yields index, id, label and class of the training images in their order."""
    source = dataset.train
    for first in range(0, len(source), CHUNK):
        rows = np.arange(first, min(first + CHUNK, len(source)))
        for row, (name, label) in zip(rows.tolist(), source.entries(rows), strict=True):
            yield row, name, label, "" if label == NO_LABEL else dataset.class_names[label]


def _write(
    config: ml_collections.ConfigDict, teacher: Teacher, out: Path, dataset: Dataset
) -> None:
    """Writes the outputs, reads them again, and prints what the file has."""
    if reads_other_images(teacher, dataset.train, dataset.num_classes, _BATCH_SIZE.value):
        warn(
            "the teacher's logits of an image change with the other images of its batch, or from "
            "call to call: the network is in training mode; in PyTorch call its .eval() first"
        )
    outputs = compute_outputs(
        teacher,
        dataset.train,
        dataset.num_classes,
        batch_size=_BATCH_SIZE.value,
        mirrored=config.augment.flip,
        description="training images",
    )
    write_outputs(out, outputs, dataset, config.data)
    stored = open_outputs(str(out))
    accuracy = stored.check_rows(dataset, config.data)
    print(stored.describe(accuracy))
    warn(*stored_output_warnings(stored.arrays["logits"], accuracy, dataset.num_classes))
    if _TEST.value:
        print(f"accuracy on the test split: {_test_accuracy(teacher, dataset):.2%}")
    print(f"use it with --config.teacher.outputs={out}")


def _test_accuracy(teacher: Teacher, dataset: Dataset) -> float:
    outputs = compute_outputs(
        teacher,
        dataset.test,
        dataset.num_classes,
        batch_size=_BATCH_SIZE.value,
        mirrored=False,
        description="test images",
    )
    correct = sum(
        int(np.sum(np.argmax(batch["logits"][:, 0], axis=-1) == batch["labels"]))
        for batch in outputs
    )
    return correct / len(dataset.test)


def _check_out(out: Path) -> Path:
    """Makes sure, before data are prepared, that the file's name can be used."""
    if out.suffix not in ("", ".npz"):
        raise UserError(f"--out={out} must end in .npz, or be a folder without a suffix")
    if out.exists():
        raise UserError(f"--out={out} exists; remove it or choose another name")
    return out


def cli() -> None:
    """Runs the `amdjax-teacher-outputs` command."""
    run_command(main)


if __name__ == "__main__":
    cli()
