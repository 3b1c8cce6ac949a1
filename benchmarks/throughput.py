"""Training throughput of amdjax and of PyTorch, in turns on the same machine.

    python -m benchmarks.throughput [--pytorch_python=PATH] [--shapes=32x128,64x256] [--help]

WRN-16-3 teaches WRN-16-1. Each side is a process, and the processes take turns, so that other work
on the machine affects both. It prints the medians of the rounds in images/s with the smallest and
the largest, in training and in evaluation of the student, the seconds from the start of a process
to the result of its first step (compilation included) and what they are spent on, and the peak of
memory: of the accelerator where there is one, else of the process. Where the rates of the device
are known, also the fraction of the roofline that is reached: the time of the step's arithmetic or
of its memory traffic at the device's peak rates, over the time that it took.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amdjax.data import TrainBatches, prefetch
from amdjax.data.sources import StreamedSource
from benchmarks import chips
from benchmarks.worker import METHODS

_ROOT = Path(__file__).parents[1]
_CLOSE_SECONDS = 30  # in which a process ends by itself
_COLUMNS = ("row", "side", "training, images/s", "evaluation, images/s", "first step, s", "MiB")

# Name of a side -> (module, variant); the Python of those of PyTorch is given.
_OURS = {
    "amdjax": ("jax_worker", "plain"),
    "amdjax, cached teacher": ("jax_worker", "cached"),
}
_RIVALS = {
    "PyTorch, eager": ("torch_worker", "eager"),
    "PyTorch, compiled": ("torch_worker", "compiled"),
}


class SideError(Exception):
    """A side failed, or its process ended, before it gave a result."""


class Side:
    """A process that trains and evaluates one row on request."""

    def __init__(
        self,
        name: str,
        python: str,
        module: str,
        *,
        limit: float | None = None,
        environment: Mapping[str, str] | None = None,
        **row: Any,
    ):
        """Starts the process, and waits for its first training step.

        Args:
          name: for people.
          python: the interpreter.
          module: of `benchmarks`, that serves the row.
          limit: seconds after which a process without a result is killed; None: never.
          environment: variables that it gets in addition.
          row: arguments of the module's `prepare`, and "warm_up", see `worker.serve`.

        Raises:
          SideError: if the process gives no result.
        """
        self.name, self._limit = name, limit
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.{module}", json.dumps({**row, "started": time.time()})],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.facts = self._answer()
        self.facts["first_step"] = time.perf_counter() - begin

    def seconds(self, task: str, steps: int) -> float:
        """Returns the seconds that a number of steps of a task, such as "train", took.

        Raises:
          SideError: if the process gives no result.
        """
        answer = self._request(task=task, steps=steps)
        self.facts["peak_mib"] = answer["peak_mib"]
        return answer["seconds"]

    def cost(self) -> dict[str, float]:
        """Returns "flops" and "bytes accessed" of a training step; {} where they are not known.

        Raises:
          SideError: if the process gives no result.
        """
        return self._request(task="cost")

    def _request(self, **request: Any) -> dict[str, Any]:
        if self._process.returncode is not None:
            raise SideError(f"{self.name} has ended")
        with contextlib.suppress(BrokenPipeError):  # it ended just now: there will be no answer
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        timer = threading.Timer(self._limit or threading.TIMEOUT_MAX, self._process.kill)
        timer.daemon = True
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self.close()
            code = self._process.returncode
            raise SideError(f"{self.name} ended with code {code}; see above")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends it; without effect where it has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def measure(sides: list[Side], rounds: int, steps: int, batch: int) -> list[dict[str, Any]]:
    """Measures one row, the sides taking turns.

    Args:
      sides: the processes.
      rounds: turns of each.
      steps: training steps of a turn, and evaluated batches.
      batch: images of a step.

    Returns:
      For each side "side", its facts, and "train" and "evaluate": images/s of each turn.

    Raises:
      SideError: if a side gives no result.
      SystemExit: if the sides' students are not the same size.
    """
    rates: dict[str, dict[str, list[float]]] = {
        side.name: {"train": [], "evaluate": []} for side in sides
    }
    for _ in range(rounds):
        for task in ("train", "evaluate"):
            for side in sides:
                rates[side.name][task].append(steps * batch / side.seconds(task, steps))
    if len({side.facts["parameters"] for side in sides}) > 1:
        sys.exit(f"error: the students differ: {[side.facts for side in sides]}")
    return [{"side": side.name, **side.facts, **rates[side.name]} for side in sides]


class _Jpegs:
    """Records as the prepared data sets have them, in memory."""

    def __init__(self, count: int, size: int):
        rng = np.random.default_rng(0)
        self._records = []
        for _ in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            buffer = io.BytesIO()
            coarse.resize((size, size), Image.Resampling.BICUBIC).save(buffer, "JPEG")
            self._records.append({"image": buffer.getvalue(), "label": 0})

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, keys: Sequence[int]) -> Sequence[dict[str, Any]]:
        return [self._records[key] for key in keys]


def input_rate(size: int, batch: int, seconds: float = 5.0) -> float:
    """Returns the number of JPEG images that the pipeline decodes and batches in a second."""
    split = StreamedSource("jpeg", _Jpegs(max(2048, batch), size), 0, (size, size, 3), 1)
    source = prefetch(TrainBatches(split, batch, seed=0), 0, 10**6)
    next(source)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        next(source)
        done += batch
    rate = done / (time.perf_counter() - begin)
    source.close()
    return rate


def _line(method: str, row: dict[str, Any]) -> str:
    train, evaluate = (
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
        for rates in (row["train"], row["evaluate"])
    )
    if row.get("floor_seconds"):
        step = row["batch"] / statistics.median(row["train"])
        train += f", {row['floor_seconds'] / step:.0%} of the floor"
    cells = (method, row["side"], train, evaluate, f"{row['first_step']:.1f}")
    return f"| {' | '.join(cells)} | {row['peak_mib']:,.0f} |"


def _first_step(method: str, side: Side) -> str:
    """Returns a line about what the seconds until a side's first step were spent on."""
    total, parts = side.facts["first_step"], side.facts["first_step_parts"]
    parts = {**parts, "the rest": total - sum(parts.values())}
    words = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
    return f"first step of {method}, {side.name}: {total:.1f} s ({words})"


def main() -> None:
    """Measures the rows, prints a Markdown table for each shape, and writes all as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pytorch_python", help="a Python with torch; without it: amdjax alone")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--methods", default=",".join(METHODS), help="rows, default: %(default)s")
    parser.add_argument("--shapes", default="32x128,64x256", help="SIZExBATCH, ...")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of a round")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmark.json"))
    given = parser.parse_args()
    methods = given.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"unknown method {unknown.pop()!r}; known: {', '.join(METHODS)}")
    try:
        shapes = [tuple(map(int, shape.split("x"))) for shape in given.shapes.split(",")]
        if any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
            raise ValueError
    except ValueError:
        parser.error(f"--shapes={given.shapes}: must be SIZExBATCH, such as 32x128,64x256")

    sides = {name: (sys.executable, *where) for name, where in _OURS.items()}
    if given.pytorch_python:
        rivals = list(_RIVALS)[: 2 if given.compile else 1]
        sides |= {name: (given.pytorch_python, *_RIVALS[name]) for name in rivals}
    try:
        _measure_all(given, methods, shapes, sides)
    except SideError as error:
        sys.exit(f"error: {error}")


def _measure_all(
    given: argparse.Namespace,
    methods: list[str],
    shapes: list[tuple[int, ...]],
    sides: dict[str, tuple[str, str, str]],
) -> None:
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}; {given.dtype}, {given.rounds} rounds of {given.steps} steps")
    content: dict[str, Any] = {"machine": machine, **vars(given), "rows": [], "input": {}}
    for size, batch in shapes:
        print(f"\n{size}x{size}, batch {batch}\n\n| {' | '.join(_COLUMNS)} |")
        print("|---" * len(_COLUMNS) + "|", flush=True)
        first_steps: list[str] = []
        for method in methods:
            row = {"method": method, "size": size, "batch": batch, "dtype": given.dtype}
            running = [
                Side(name, python, module, variant=variant, **row)
                for name, (python, module, variant) in sides.items()
                if method != "student" or variant != "cached"
            ]
            for side in running:
                chip = chips.find_chip(side.facts["device"])
                if chip and (cost := side.cost()):
                    side.facts["floor_seconds"] = chips.floor_seconds(cost, chip, given.dtype)
            for measured in measure(running, given.rounds, given.steps, batch):
                content["rows"].append({**row, **measured})
                print(_line(method, content["rows"][-1]), flush=True)
            first_steps += [_first_step(method, side) for side in running]
            for side in running:
                side.close()
        print("\n" + "\n".join(first_steps))
        content["input"][size] = input_rate(size, batch)
        print(f"\ninput: {content['input'][size]:,.0f} JPEG images/s", flush=True)
    used = {f"{row['software']} on {row['device']}" for row in content["rows"]}
    print(f"\n{'; '.join(sorted(used))}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
