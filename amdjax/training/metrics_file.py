"""The file `metrics.jsonl`, which has the values of a run over its steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from amdjax.errors import note
from amdjax.files import write_atomically

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Reads `metrics.jsonl`.

    Args:
      path: of the file.

    Returns:
      (lines, damaged): the values of each line, [] without a file; and how many lines cannot be
      read, apart from an incomplete last line, which a killed run leaves.
    """
    lines, damaged = [], 0
    if not path.is_file():
        return lines, damaged
    for text in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(text)
            numbers = [value for key, value in line.items() if key != "split"]
            if not isinstance(line["split"], str) or not isinstance(line["step"], int):
                raise TypeError("not a line of a log")
            if not all(isinstance(number, int | float) for number in numbers):
                raise TypeError("a value is not a number")
            lines.append(line)
        except (ValueError, TypeError, LookupError, AttributeError):
            damaged += text.endswith(b"\n")
    return lines, damaged


def training_seconds(path: Path, batch_size: int) -> float | None:
    """Returns the time of a run's training steps by its log; None if that is not complete.

    Args:
      path: of `metrics.jsonl`.
      batch_size: of the run.
    """
    lines, damaged = read_metrics(path)
    trained = [line for line in lines if line["split"] == "train"]
    if damaged or not trained:
        return None
    try:
        steps = np.diff([0, *(line["step"] for line in trained)])
        rates = np.array([line["images_per_s"] for line in trained], float)
        return float(np.sum(steps * batch_size / rates))
    except (ValueError, TypeError, LookupError):
        return None


def drop_lines(path: Path, step: int) -> None:
    """Removes the lines of later steps, and with a note those that are damaged.

    Args:
      path: of `metrics.jsonl`.
      step: the last whose line is kept.
    """
    lines, damaged = read_metrics(path)
    if damaged:
        note(f"{path}: damaged lines that are dropped: {damaged}")
    kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
    write_atomically(path, "".join(kept))
