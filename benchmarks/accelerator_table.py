"""The tables of what `benchmarks.accelerator` has measured, with the goals beside them."""

import collections
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import chips
from benchmarks.records import Record, read

_FIRST_STEP = (
    "The first step of a side counts from the start of its process. That of its other data is the "
    "first one with them; where they have another program, it is compiled then."
)
_GOALS = (
    "twice the better of PyTorch at batch 128",
    "half of the roofline at the best batch",
    "200 epochs of AMD(g+l) on CIFAR-10 within two minutes",
)


def write_table(out: Path) -> None:
    """Writes the tables of the records of a folder to its file table.md."""
    partial = out / "table.partial"
    partial.write_text(table(read(out / "records.jsonl")))
    partial.replace(out / "table.md")


def table(records: Sequence[Record]) -> str:
    """Returns all that was measured as Markdown, with the goals beside it."""
    of: dict[str, list[Record]] = collections.defaultdict(list)
    for record in records:
        of[record["part"]].append(record)
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
