"""Parts that both sides of the benchmark share: rows of the table, and a loop over requests."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
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

# Where the images of a training step come from: one batch that stays in the device's memory,
# batches that the host sends, or a training set in the device's memory. A task of this name trains
# on them.
DATA = ("fixed", "streamed", "resident")


class Prepared(NamedTuple):
    """A row, ready to run.

    Attributes:
      train: does so many training steps and waits for them.
      evaluate: classifies so many batches with the student, and waits.
      peak_mib: () -> the peak of the accelerator's memory, else of the process's.
      facts: further facts about the side, JSON.
      tasks: name of a further task -> function that does so many steps and waits.
      cost: () -> "flops" and "bytes accessed" of a training step, after the first; {}: not known.
    """

    train: Callable[[int], None]
    evaluate: Callable[[int], None]
    peak_mib: Callable[[], float]
    facts: dict[str, Any]
    tasks: Mapping[str, Callable[[int], None]] = {}
    cost: Callable[[], dict[str, float]] = dict


def serve(prepare: Callable[..., Prepared]) -> None:
    """Prepares the row that the command line names, then serves requests until the input ends.

    The first reply, after the first training step, has the facts, and in "first_step_parts" the
    seconds of the start by what they were spent on. A request is a JSON object with
    "task", "train", "evaluate" or a further task of the side, and "steps"; its answer has "seconds"
    and "peak_mib", or "error". The answer to the task "cost" is the cost of a training step.

    Args:
      prepare: (method, size, batch, dtype, variant, ...) -> `Prepared`.
    """
    given = json.loads(sys.argv[1])
    importing = time.time() - given.pop("started")
    warm_up = given.pop("warm_up", ("train", "evaluate"))  # tasks, before the first request
    row = prepare(**given)
    tasks = {"train": row.train, "evaluate": row.evaluate, **row.tasks}
    row.train(1)
    parts = {"imports": importing, **row.facts.get("first_step_parts", {})}
    print(json.dumps({**row.facts, "first_step_parts": parts}), flush=True)
    for task in warm_up:
        tasks[task](1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["task"] == "cost":
                answer = row.cost()
            else:
                begin = time.perf_counter()
                tasks[request["task"]](request["steps"])
                seconds = time.perf_counter() - begin
                answer = {"seconds": seconds, "peak_mib": row.peak_mib()}
        except Exception as error:  # such as memory that is full; another task may need less
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        print(json.dumps(answer), flush=True)
