"""Shared by both sides of the benchmark: rows of the table, and a loop over requests."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Row of the table -> weights of ce, of kd, of am, and of the whole map in am.
METHODS = {
    "student": (1.0, 0.0, 0.0, 1.0),
    "kd": (0.1, 0.9, 0.0, 1.0),
    "amd_g": (0.1, 0.9, 5000.0, 1.0),
    "amd_gl": (0.1, 0.9, 5000.0, 0.8),
}
TEMPERATURE, MARGIN, SCALE, GRID = 4.0, 1.35, 64.0, 2
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4
NUM_CLASSES = 10


class Prepared(NamedTuple):
    """A row, ready to run.

    Attributes:
      train: does so many training steps and waits for them.
      evaluate: classifies so many batches with the student, and waits.
      peak_mib: () -> the peak of the accelerator's memory, else of the process's.
      facts: further facts about the side, JSON.
    """

    train: Callable[[int], None]
    evaluate: Callable[[int], None]
    peak_mib: Callable[[], float]
    facts: dict[str, Any]


def serve(prepare: Callable[..., Prepared]) -> None:
    """Prepares the row that the command line names, then serves requests until the input ends.

    The first reply, after the first training step, has the facts. A request is a JSON object with
    "task", "train" or "evaluate", and "steps"; its answer has "seconds" and "peak_mib".

    Args:
      prepare: (method, size, batch, dtype, variant) -> `Prepared`.
    """
    row = prepare(**json.loads(sys.argv[1]))
    row.train(1)
    print(json.dumps(row.facts), flush=True)
    row.train(1)
    row.evaluate(1)
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.perf_counter()
        {"train": row.train, "evaluate": row.evaluate}[request["task"]](request["steps"])
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "peak_mib": row.peak_mib()}), flush=True)
