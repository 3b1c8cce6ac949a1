"""The command for a GPU: its time limits, what it keeps, and its table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import accelerator, hlo
from benchmarks.accelerator_parts import cells, sides_of
from benchmarks.accelerator_table import table
from benchmarks.records import append, read
from benchmarks.throughput import Side, SideError
from tests.tiny_run import ROOT

_COMMAND = [sys.executable, "-m", "benchmarks.accelerator"]
_MACHINE = {"part": "machine", "device": "NVIDIA H100 80GB HBM3", "platform": "gpu"}
_MACHINE |= {"software": "jax 1, torch 2", "usable": True, "tiny": False}


def test_share_leaves_unused_time_to_later_parts():
    parts = list(accelerator.PARTS)
    first = accelerator.share("machine", parts, 1000.0)
    assert first == pytest.approx(1000 * 2 / sum(accelerator.PARTS.values()))
    early, late = (
        accelerator.share("correctness", parts[1:], seconds) for seconds in (999.0, 1000 - first)
    )
    assert early > late
    assert accelerator.share("training", ["training"], 60.0) == 60.0


def test_fits_expects_the_longest_duration_again():
    assert accelerator.fits(30.0, [], first_guess=30.0)
    assert not accelerator.fits(29.0, [], first_guess=30.0)
    assert accelerator.fits(12.0, [10.0, 12.0, 4.0], first_guess=30.0)
    assert not accelerator.fits(11.0, [10.0, 12.0, 4.0], first_guess=30.0)


_START = """
import json, sys, time, subprocess
from pathlib import Path
out = Path(sys.argv[1])
def add(**record):
    with (out / "records.jsonl").open("a") as file:
        file.write(json.dumps(record) + chr(10))
"""
_HANG = """
add(part="roofline", method="kd", left_out="no time left")
child = subprocess.Popen(["sleep", "60"])
(out / "pid").write_text(str(child.pid))
time.sleep(60)
"""


def _run(out, scripts, seconds):
    """Runs parts that are Python code, in which `add` appends a record."""
    accelerator.run_parts(
        list(scripts),
        seconds,
        out,
        lambda part, seconds: [sys.executable, "-c", _START + scripts[part], str(out)],
        dict(os.environ),
    )
    records = read(out / "records.jsonl")
    return records, {x["part"]: x["outcome"] for x in records if "outcome" in x}


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_run_parts_goes_on_after_parts_that_fail_or_hang(tmp_path):
    scripts = {
        "machine": f"add(**{_MACHINE})",
        "correctness": "sys.exit('broken')",
        "seeds": f"sys.exit({accelerator.OUT_OF_TIME})",
        "roofline": _HANG,
        "training": "add(part='training', run='short', error='x')",
    }
    records, outcomes = _run(tmp_path, scripts, seconds=9.0)
    assert outcomes.pop("roofline").startswith("stopped after ")
    assert outcomes == {
        "machine": "finished",
        "correctness": "failed (code 1)",
        "seeds": "incomplete",
        "training": "finished",
    }
    assert records[-2]["run"] == "short"
    assert "broken" in (tmp_path / "correctness.log").read_text()
    assert not _is_running(int((tmp_path / "pid").read_text()))
    assert "| roofline | kd | no time left |" in (tmp_path / "table.md").read_text()

    # The same command does what is missing, and nothing twice.
    scripts |= {"correctness": "", "seeds": "", "roofline": "", "training": "sys.exit(1)"}
    records, outcomes = _run(tmp_path, scripts, seconds=60.0)
    assert set(outcomes.values()) == {"finished"}
    assert sum(x["part"] == "training" for x in records) == 2


def test_run_parts_ends_without_an_accelerator(tmp_path):
    unusable = {**_MACHINE, "usable": False}
    scripts = {"machine": f"add(**{unusable})", "roofline": ""}
    assert _run(tmp_path, scripts, seconds=60.0)[1] == {"machine": "finished"}


def test_read_leaves_out_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "records.jsonl"
    assert read(path) == []
    append(path, {"part": "seeds"})
    with path.open("a") as file:
        file.write('{"part": "se')
    assert read(path) == [{"part": "seeds"}]


def _rates(side, data, *rates, **more):
    row = {"part": "throughput", "method": "amd_gl", "dtype": "bfloat16", "batch": 128}
    facts = {"device": "NVIDIA H100 80GB HBM3", "peak_mib": 100.0, "first_step": 30.0}
    return {**row, "side": side, "data": data, **facts, "rates": rates, **more}


def test_table_compares_with_the_goals():
    # At 3.35 TB/s a step takes 0.4 ms at least, and 1.6 ms at 80,000 images/s.
    cost = {"flops": 1e9, "bytes accessed": 0.4e-3 * 3.35e12}
    run = {"part": "training", "run": "short", "data": "CIFAR-10", "epochs": 3.0, "accuracy": 0.86}
    run |= {"eval_every": 1, "epoch_seconds": 0.5, "seconds": 9.0}
    records = [
        _MACHINE,
        _rates("amdjax", "resident", 70e3, 80e3, 90e3, cost=cost),
        _rates("amdjax", "streamed", 20e3, cost=cost),
        _rates("amdjax, cached teacher", "resident", 1e6),
        _rates("PyTorch, eager", "resident", 10e3),
        _rates("PyTorch, compiled", "resident", 25e3),
        _rates("PyTorch, compiled", "streamed", 32e3),
        {**run, "network": "teacher", "projected_seconds": 10.0},
        {**run, "network": "amd_gl", "projected_seconds": 110.0},
        {"part": "training", "run": "long", "error": "ended with code 1; see the log"},
    ]
    text = table(records)
    for line in (
        "| twice the better of PyTorch at batch 128 | amd_gl, bfloat16: 2.50x | yes |",
        "| half of the roofline at the best batch | amd_gl, bfloat16, batch 128, resident: 25% | "
        "no |",
        "| 200 epochs of AMD(g+l) on CIFAR-10 within two minutes | short, CIFAR-10: 110 s | yes |",
        "| amdjax | resident | 80,000 (70,000 to 90,000) | 3.20x | 30.0 | 100 |",
        "| amdjax | streamed | 20,000 (20,000 to 20,000) | 0.62x | 30.0 | 100 |",
        "| amd_gl | bfloat16 | 128 | resident | 1.0 | 1.340 | 1 | 400 | 1,600 | 25% |",
        "| training | long | ended with code 1; see the log |",
    ):
        assert line in text


def test_table_without_measurements_says_so():
    assert table([_MACHINE]).count("| not measured |") == 3
    assert "reached" not in table([{**_MACHINE, "tiny": True}])


def test_accelerator_writes_the_table_after_sigterm(tmp_path):
    flags = ["--tiny", "--parts=machine", f"--out={tmp_path}"]
    process = subprocess.Popen([*_COMMAND, *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "machine.log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "table.md").read_text().startswith("# Measurements")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--parts=seeds,nothing", "unknown part 'nothing'; known: machine, correctness, "),
        ("--minutes=0", "--minutes=0: must be above 0"),
    ],
)
def test_accelerator_names_mistakes(tmp_path, flag, message):
    command = [*_COMMAND, f"--out={tmp_path}", flag]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_cells_begin_with_the_most_important_one():
    rows = cells(tiny=False)
    assert rows[0] == ("amd_gl", "bfloat16", 128)
    assert len(set(rows)) == len(rows) == 16


def test_slow_ways_of_pytorch_are_measured_in_the_first_row_alone():
    first, other = (list(sides_of(first, "python")) for first in (True, False))
    assert first[:2] == ["amdjax", "amdjax, cached teacher"]
    assert len(first) == 6
    assert other == ["amdjax", "PyTorch, CUDA graphs"]
    assert list(sides_of(first=False, pytorch_python="")) == ["amdjax"]


@pytest.mark.parametrize(("script", "code"), [("exec sleep 60", -signal.SIGKILL), ("exit 3", 3)])
def test_side_that_gives_no_result_is_an_error(tmp_path, script, code):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(SideError, match=f"slow ended with code {code}"):
        Side("slow", str(python), "jax_worker", limit=0.5)


def test_bytes_moved_counts_library_calls_and_called_computations():
    program = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p)
}

%body (c: f32[8]) -> f32[8] {
  %c = f32[8]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%c), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[8], k: bf16[4,2]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %k = bf16[4,2]{1,0} parameter(1)
  %conv = (f32[16]{0}, u8[1000]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward"
  %y = f32[16]{0} get-tuple-element(%conv), index=0
  %s = f32[8]{0} fusion(%y), kind=kLoop, calls=%other, metadata={op_name="f(%z), g"}
  ROOT %w = f32[8]{0} while(%s), condition=%condition, body=%body
}
"""
    convolution, fusion, loop = 4 * 8 + 2 * 8 + 4 * 16, 4 * 16 + 4 * 8, 4 * 8 + 4 * 8
    assert hlo.bytes_moved(program) == convolution + fusion + loop
