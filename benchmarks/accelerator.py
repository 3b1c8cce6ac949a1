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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import chips

Record = dict[str, Any]

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
_FIRST_STEP = (
    "The first step of a side counts from the start of its process. That of its other data is the "
    "first one with them; where they have another program, it is compiled then."
)
_GOALS = (
    "twice the better of PyTorch at batch 128",
    "half of the roofline at the best batch",
    "200 epochs of AMD(g+l) on CIFAR-10 within two minutes",
)


def append(path: Path, record: Record) -> None:
    """Adds a record to a file of JSON lines, so that it is kept whatever happens next."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """Returns the records of a file; a last line that was cut off is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


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


def write_table(out: Path) -> None:
    """Writes the tables of the records of a folder to its file table.md."""
    partial = out / "table.partial"
    partial.write_text(table(read(out / "records.jsonl")))
    partial.replace(out / "table.md")


def table(records: Sequence[Record]) -> str:
    """Returns all that was measured as Markdown, with the goals beside it."""
    of = {part: [x for x in records if x["part"] == part] for part in PARTS}
    sections = [
        "# Measurements on an accelerator",
        _machine(of["machine"]),
        _grid(
            ("part", "outcome", "s"),
            [(x["part"], x["outcome"], f"{x['seconds']:.0f}") for x in records if "outcome" in x],
        ),
        _goals(of),
        _correctness(of["correctness"]),
        _throughput(of["throughput"]),
        _seeds(of["seeds"]),
        _roofline(of),
        _xla_flags(of["xla_flags"]),
        _convolutions(of["convolutions"]),
        _training(of["training"]),
        _errors(records),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *lines])


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *filter(None, parts)]) if any(parts) else ""


def _machine(records: Sequence[Record]) -> str:
    return "\n\n".join(
        f"{x['device']} ({x['platform']}), {x['software']}" for x in records if "device" in x
    )


def _spread(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _rates(records: Iterable[Record]) -> list[Record]:
    return [x for x in records if x.get("rates")]


def _is_ours(record: Record) -> bool:
    return record["side"].startswith("amdjax")


def _is_plain(record: Record) -> bool:
    return record["side"] == "amdjax"


def _rows_of(records: Iterable[Record]) -> dict[tuple[str, str, int], list[Record]]:
    """Returns the records of each (method, dtype, batch)."""
    rows: dict[tuple[str, str, int], list[Record]] = {}
    for record in _rates(records):
        rows.setdefault((record["method"], record["dtype"], record["batch"]), []).append(record)
    return rows


def speedup(records: Iterable[Record], data: str | None = None) -> float | None:
    """Returns the rate of amdjax over that of the fastest side of PyTorch.

    Args:
      records: of one method, dtype and batch.
      data: where the images of both come from; None: the fastest of each.

    Returns:
      The ratio; None where one of them was not measured.
    """
    chosen = [x for x in _rates(records) if data in (None, x["data"])]
    ours = [statistics.median(x["rates"]) for x in chosen if _is_plain(x)]
    theirs = [statistics.median(x["rates"]) for x in chosen if not _is_ours(x)]
    return max(ours) / max(theirs) if ours and theirs else None


def roofline_fraction(record: Record) -> float | None:
    """Returns the time of a step at the data sheet's rates over the time that it took.

    Args:
      record: of a side of amdjax.

    Returns:
      The fraction; None where the costs of the step or the rates of the device are not known.
    """
    chip, cost = chips.find_chip(record["device"]), record.get("cost")
    if not chip or not cost or not record.get("rates"):
        return None
    seconds = record["batch"] / statistics.median(record["rates"])
    return chips.floor_seconds(cost, chip, record["dtype"]) / seconds


def _goals(of: dict[str, list[Record]]) -> str:
    if any(x.get("tiny") for x in of["machine"]):
        return "These are the smallest sizes (--tiny): the figures say nothing about the goals."
    speedups = {
        f"{method}, {dtype}": ratio
        for (method, dtype, batch), rows in _rows_of(of["throughput"]).items()
        if batch == 128 and (ratio := speedup(rows)) is not None
    }
    fractions = {
        f"{x['method']}, {x['dtype']}, batch {x['batch']}, {x['data']}": fraction
        for x in _rates(of["throughput"])
        if (fraction := roofline_fraction(x)) is not None
    }
    projected = {
        f"{x['run']}, {x['data']}": x["projected_seconds"]
        for x in of["training"]
        if x.get("network") == "amd_gl"
    }

    def judge(measured: str, reached: bool | None) -> tuple[str, str]:
        return measured, {None: "not measured", True: "yes", False: "no"}[reached]

    answers = [judge("", None) for _ in _GOALS]
    if speedups:
        text = "; ".join(f"{row}: {ratio:.2f}x" for row, ratio in speedups.items())
        answers[0] = judge(text, min(speedups.values()) >= 2)
    if fractions:
        best = max(fractions, key=lambda row: fractions[row])
        answers[1] = judge(f"{best}: {fractions[best]:.0%}", fractions[best] >= 0.5)
    if projected:
        best = min(projected, key=lambda run: projected[run])
        answers[2] = judge(f"{best}: {projected[best]:.0f} s", projected[best] <= 120)
    rows = [(goal, *answer) for goal, answer in zip(_GOALS, answers, strict=True)]
    return _section("Goals", _grid(("goal", "measured", "reached"), rows))


def _correctness(records: Sequence[Record]) -> str:
    counts = [x for x in records if "passed" in x]
    if not counts:
        return ""
    last = counts[-1]
    failed = last["failed"]
    summary = f"{last['passed']} tests passed, {len(failed)} failed, {last['skipped']} skipped."
    if not last["complete"]:
        summary += " The time was over before the last one."
    return _section("Correctness", summary, "\n".join(f"- `{test}`" for test in failed))


def _throughput(records: Sequence[Record]) -> str:
    sections = []
    for (method, dtype, batch), rows in _rows_of(records).items():
        ratios = {data: speedup(rows, data) for data in {x["data"] for x in rows}}
        lines = [
            (
                row["side"],
                row["data"],
                _spread(row["rates"]),
                f"{ratio:.2f}x" if _is_plain(row) and (ratio := ratios[row["data"]]) else "",
                f"{row['first_step']:.1f}",
                f"{row['peak_mib']:,.0f}",
            )
            for row in rows
        ]
        sections.append(f"{method}, {dtype}, batch {batch}:")
        columns = ("side", "data", "training, images/s", "over PyTorch's best", "first step, s")
        sections.append(_grid((*columns, "MiB"), lines))
    return _section("Beside PyTorch", _FIRST_STEP if sections else "", *sections)


def _seeds(records: Sequence[Record]) -> str:
    rows = _rates(records)
    alone = next((statistics.median(x["rates"]) for x in rows if x["seeds"] == 1), None)
    lines = [
        (
            str(row["seeds"]),
            _spread(row["rates"]),
            f"{statistics.median(row['rates']) / alone:.2f}x" if alone else "",
            f"{row['first_step']:.1f}",
            f"{row['peak_mib']:,.0f}",
        )
        for row in rows
    ]
    columns = ("students", "images/s of all", "over one student's", "first step, s", "MiB")
    note = "".join(f"{x['method']}, {x['dtype']}, batch {x['batch']} each:" for x in rows[:1])
    return _section("Students as one program", note, _grid(columns, lines))


def _roofline(of: dict[str, list[Record]]) -> str:
    measured = [(x["what"], f"{x['rate'] / 1e12:,.2f}") for x in of["roofline"] if "what" in x]
    lines, used = [], ""
    for row in _rates(of["throughput"]):
        chip, cost = chips.find_chip(row["device"]), row.get("cost")
        if not cost:
            continue
        cells = [row["method"], row["dtype"], str(row["batch"]), row["data"]]
        cells += [f"{cost['flops'] / 1e9:,.1f}", f"{cost['bytes accessed'] / 1e9:,.3f}"]
        if chip:
            arithmetic = cost["flops"] / chip.flops[row["dtype"]]
            memory = cost["bytes accessed"] / chip.bandwidth
            cells += [f"{1e6 * arithmetic:,.0f}", f"{1e6 * memory:,.0f}"]
            used = (
                f"The data sheet's rates, which the fractions are of: "
                f"{chip.flops['bfloat16'] / 1e12:,.0f} TFLOP/s in bfloat16, "
                f"{chip.flops['float32'] / 1e12:,.0f} in TF32 (float32), and "
                f"{chip.bandwidth / 1e12:,.2f} TB/s. A step's operations are those of the traced "
                "program; its bytes are what the compiled kernels read and write."
            )
        else:
            cells += ["", ""]
        fraction = roofline_fraction(row)
        step = row["batch"] / statistics.median(row["rates"])
        cells += [f"{1e6 * step:,.0f}", "" if fraction is None else f"{fraction:.0%}"]
        lines.append(cells)
    columns = ("method", "dtype", "batch", "data", "GFLOP", "GB", "arithmetic, us", "memory, us")
    return _section(
        "Roofline",
        _grid(("measured on this device", "TFLOP/s or TB/s"), measured),
        used,
        _grid((*columns, "step, us", "of the roofline"), lines),
    )


def _xla_flags(records: Sequence[Record]) -> str:
    lines = [
        (
            row["flags"] or "none",
            *(str(row[key]) for key in ("method", "dtype", "batch")),
            _spread(row["rates"]),
            f"{row['first_step']:.1f}",
        )
        for row in _rates(records)
    ]
    columns = ("flags", "method", "dtype", "batch", "training, images/s", "first step, s")
    return _section("Flags of XLA", _grid(columns, lines))


def _convolutions(records: Sequence[Record]) -> str:
    lines = [
        (
            x["layer"],
            x["dtype"],
            str(x["batch"]),
            x["operation"],
            f"{1e6 * x['seconds']:,.1f}",
            f"{1e6 * x['floor']:,.1f}" if x["floor"] else "",
        )
        for x in records
        if "layer" in x
    ]
    columns = ("layer", "dtype", "batch", "operation", "us", "at peak rates, us")
    return _section("Convolutions of WRN-16-1", _grid(columns, lines))


def _training(records: Sequence[Record]) -> str:
    lines = [
        (
            x["run"],
            x["network"],
            x["data"],
            f"{x['epochs']:.0f}",
            str(x["eval_every"]),
            f"{x['epoch_seconds']:.2f}",
            f"{x['projected_seconds']:,.0f}",
            f"{x['accuracy']:.2%}",
            f"{x['seconds']:.0f}",
        )
        for x in records
        if "epoch_seconds" in x
    ]
    columns = ("run", "network", "data", "epochs", "evaluated every", "s an epoch", "s for 200")
    return _section("Training", _grid((*columns, "accuracy", "s of the run"), lines))


def _errors(records: Iterable[Record]) -> str:
    lines = []
    for x in records:
        for kind in ("error", "left_out"):
            if kind in x:
                name = ", ".join(
                    str(x[key]) for key in ("method", "dtype", "batch", "side", "run") if key in x
                )
                lines.append((x["part"], name, x[kind].replace("|", "/").replace("\n", " ")))
    return _section("Not measured", _grid(("part", "row", "reason"), lines))


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
