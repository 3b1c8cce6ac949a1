"""Everything that is measured on a GPU, in one command and within a time limit.

    python -m benchmarks.accelerator --minutes=25 --out=FOLDER [--pytorch_python=PATH] [--help]

Each part is a process with a time limit: its share of the minutes that are left. What it measures
is appended to FOLDER/records.jsonl immediately, its output goes to FOLDER/PART.log, and
FOLDER/table.md is written again after each part, after SIGTERM too. A part that fails does not stop
the others, and the same command goes on with what is missing. The parts, in this order:

- machine: the device and the versions; without an accelerator the command ends here.
- correctness: the tests that are marked `accelerator`.
- throughput: WRN-16-3 teaches WRN-16-1 on images of 32x32, beside PyTorch in turns (eager and
  compiled, NCHW and channels-last, with CUDA graphs), in bfloat16 and in float32 with TF32 on both
  sides, with data in the device's memory, sent by the host, and one batch that is used again.
- seeds: 1, 2, 4 and 8 students as one program.
- roofline: rates of products and copies of this card. With the data sheet's rates and the costs of
  the steps above they give the fraction of the roofline that is reached.
- xla_flags: the step with and without CUDA graphs and autotuning.
- convolutions: each layer of WRN-16-1, forward, gradient of its input, gradient of its kernel.
- training: runs of AMD(g+l) on CIFAR-10, or on generated images of its size.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.accelerator_table import write_table
from benchmarks.records import Record, append, read

# Part -> its share of the time. What a part does not use is left to those after it.
PARTS = {
    "machine": 2.0,
    "correctness": 4.5,
    "throughput": 11.0,
    "seeds": 2.0,
    "roofline": 1.0,
    "xla_flags": 3.0,
    "convolutions": 1.5,
    "training": 5.0,
}
# The exit code of a part that has left something out because its time was over.
OUT_OF_TIME = 75
_OUTCOMES = {0: "finished", OUT_OF_TIME: "incomplete"}
_GRACE_SECONDS = 10  # between SIGTERM and SIGKILL


def share(part: str, waiting: Sequence[str], seconds: float) -> float:
    """Returns the seconds that a part may take of those that are left.

    Args:
      part: the next one.
      waiting: the parts that are not done, this one among them.
      seconds: that are left for all of them.
    """
    return seconds * PARTS[part] / sum(PARTS[name] for name in waiting)


def fits(seconds: float, durations: Sequence[float], first_guess: float) -> bool:
    """Returns whether there is time for one more of several similar measurements.

    Args:
      seconds: that are left.
      durations: of those before, in seconds.
      first_guess: duration of the first one.
    """
    return seconds >= (max(durations) if durations else first_guess)


def run_process(
    command: Sequence[str], log: Path, limit: float, environment: dict[str, str]
) -> tuple[str, float]:
    """Runs a command, with its output in a file, and ends all that it has started.

    Args:
      command: of the process, which leads a process group.
      log: that its output is added to.
      limit: seconds, after which the group gets SIGTERM, and SIGKILL 10 seconds later.
      environment: of the process.

    Returns:
      "finished", "incomplete" (exit code 75), "failed (code N)" or "stopped after N s"; and the
      seconds that it took.
    """
    begin = time.monotonic()
    with log.open("a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit)
            outcome = _OUTCOMES.get(code, f"failed (code {code})")
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
        finally:  # after SIGTERM to this process too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_SECONDS)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return outcome, time.monotonic() - begin


def run_parts(
    parts: Sequence[str],
    seconds: float,
    out: Path,
    command_of: Callable[[str, float], Sequence[str]],
    environment: dict[str, str],
) -> None:
    """Runs parts one after the other, within a time limit; those that are finished are left out.

    Args:
      parts: of `PARTS`, in their order.
      seconds: for all of them.
      out: the folder of records, table and logs.
      command_of: (part, seconds that it should take) -> its command.
      environment: of the parts.
    """
    records, end = out / "records.jsonl", time.monotonic() + seconds
    finished = {x["part"] for x in read(records) if x.get("outcome") == "finished"}
    waiting = [part for part in parts if part == "machine" or part not in finished]
    while waiting:
        part = waiting[0]
        limit = share(part, waiting, end - time.monotonic())
        if limit < 1:
            append(records, {"part": part, "outcome": "no time left", "seconds": 0.0})
        else:
            print(f"{part}: at most {limit:.0f} s", flush=True)
            command = command_of(part, limit - min(_GRACE_SECONDS, limit / 2))
            outcome, taken = run_process(command, out / f"{part}.log", limit, environment)
            append(records, {"part": part, "outcome": outcome, "seconds": round(taken, 1)})
            print(f"{part}: {outcome}, {taken:.0f} s", flush=True)
        waiting.pop(0)
        write_table(out)
        if part == "machine" and not _may_go_on(read(records)):
            break


def _may_go_on(records: Iterable[Record]) -> bool:
    machines = [x for x in records if x["part"] == "machine" and "device" in x]
    return bool(machines) and machines[-1]["usable"]


def main() -> None:
    """Runs the parts and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder of records, table, logs")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument(
        "--pytorch_python", default=sys.executable, help="a Python with torch; default: this one"
    )
    parser.add_argument("--data_dir", default="", help="config.data.data_dir, with CIFAR-10")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to try it on a CPU")
    given = parser.parse_args()
    parts = given.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()!r}; known: {', '.join(PARTS)}")
    if given.minutes <= 0:
        parser.error(f"--minutes={given.minutes:g}: must be above 0")
    parts = [part for part in PARTS if part == "machine" or part in parts]
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)

    def command_of(part: str, seconds: float) -> list[str]:
        options = {
            "seconds": seconds,
            "records": str(out / "records.jsonl"),
            "pytorch_python": given.pytorch_python,
            "data_dir": given.data_dir and str(Path(given.data_dir).absolute()),
            "tiny": given.tiny,
        }
        return [sys.executable, "-m", "benchmarks.accelerator_parts", part, json.dumps(options)]

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        run_parts(parts, 60 * given.minutes, out, command_of, _environment())
    finally:
        write_table(out)
        print(f"\n{(out / 'table.md').read_text()}", flush=True)
    if not _may_go_on(read(out / "records.jsonl")):
        print(f"error: JAX finds no accelerator; see {out / 'machine.log'}", file=sys.stderr)
        sys.exit(2)


def _stop(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # the table is written first
    sys.exit(128 + number)


def _environment() -> dict[str, str]:
    environment = {"PYTHONUNBUFFERED": "1", **os.environ}
    # One card, as PyTorch uses one; and compilation that is timed is not taken from a cache.
    environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    # The operations of a step are counted in its program for a CPU.
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"
    return environment


if __name__ == "__main__":
    main()
