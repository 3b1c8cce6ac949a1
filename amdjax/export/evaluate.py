"""Accuracy, size and speed of exported files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from amdjax.calibrated import BATCH_SIZE
from amdjax.data import Dataset, EvalBatches
from amdjax.export.formats import Classify

_SECONDS, _MOST_CALLS = 1.0, 50  # of a measurement of the speed


class Evaluation(NamedTuple):
    """Measurements of an exported network.

    Attributes:
      accuracy: on the test split, in [0, 1].
      size: of the file, in bytes.
      images_per_s: of the forward pass in batches of `BATCH_SIZE`, on this machine's CPU.
    """

    accuracy: float
    size: int
    images_per_s: float


def evaluate(file: Path, classify: Classify, dataset: Dataset) -> Evaluation:
    """Measures an exported network on the test split.

    Args:
      file: of the network.
      classify: images -> probabilities.
      dataset: of the network.
    """
    correct = 0
    for batch in tqdm(EvalBatches(dataset.test, BATCH_SIZE), disable=None, leave=False):
        predicted = classify(batch["image"]).argmax(axis=1)
        correct += int(np.sum((predicted == batch["label"]) & batch["mask"]))
    seconds = seconds_per_call(lambda: classify(batch["image"]))
    return Evaluation(correct / len(dataset.test), file.stat().st_size, BATCH_SIZE / seconds)


def seconds_per_call(
    function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Returns the median time of a call by a clock in seconds, after one call to warm up."""
    function()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < _SECONDS and len(seconds) < _MOST_CALLS):
        start = clock()
        function()
        seconds.append(clock() - start)
    return float(np.median(seconds))


def format_evaluations(evaluations: dict[str, Evaluation], style: str) -> str:
    """Returns a table of the evaluations of several files, in a style of `tabulate`."""
    rows = [
        (
            name,
            f"{100 * entry.accuracy:.2f}",
            f"{entry.size / 1e6:.2f}",
            f"{entry.images_per_s:,.0f}",
        )
        for name, entry in evaluations.items()
    ]
    headers = ("file", "accuracy %", "MB", "images/s")
    align = ("left", "right", "right", "right")
    return tabulate(rows, headers, style, disable_numparse=True, colalign=align)
