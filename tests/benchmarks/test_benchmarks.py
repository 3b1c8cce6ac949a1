"""The benchmark and the table on paper, as a user runs them."""

import json
import subprocess
import sys

import pytest

from benchmarks import chips
from tests.tiny_run import ROOT, finish

_COMMAND = [sys.executable, "-m", "benchmarks.throughput"]


def test_floor_seconds_is_the_slower_of_arithmetic_and_memory():
    chip = chips.Chip({"bfloat16": 100.0, "float32": 50.0}, bandwidth=10.0, network=1.0)
    assert chips.floor_seconds({"flops": 200.0, "bytes accessed": 5.0}, chip, "bfloat16") == 2.0
    assert chips.floor_seconds({"flops": 200.0, "bytes accessed": 5.0}, chip, "float32") == 4.0
    assert chips.floor_seconds({"flops": 200.0, "bytes accessed": 90.0}, chip, "float32") == 9.0


def test_find_chip_knows_the_device_kinds_of_jax():
    assert chips.find_chip("NVIDIA H100 80GB HBM3") is chips.CHIPS["NVIDIA H100 80GB HBM3"]
    assert chips.find_chip("NVIDIA H100 PCIe") is None  # slower
    assert chips.find_chip("TPU v5 lite") is chips.CHIPS["TPU v5 lite"]
    assert chips.find_chip("cpu") is None


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--methods=kd,nothing", "unknown method 'nothing'; known: student, kd, amd_g, amd_gl"),
        ("--shapes=32", "--shapes=32: must be SIZExBATCH, such as 32x128,64x256"),
        ("--shapes=0x8", "must be SIZExBATCH"),
    ],
)
def test_throughput_names_mistakes(flag, message):
    result = subprocess.run([*_COMMAND, flag], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_throughput_measures_every_row(tmp_path):
    flags = ["--methods=student,kd", "--shapes=8x4", "--rounds=2", "--steps=1"]
    code, out, err = finish([*_COMMAND, *flags, f"--json={tmp_path / 'rates.json'}"])
    assert code == 0, err
    content = json.loads((tmp_path / "rates.json").read_text())
    rows = [(row["method"], row["side"]) for row in content["rows"]]
    once = "amdjax, cached teacher"
    assert rows == [("student", "amdjax"), ("kd", "amdjax"), ("kd", once)]
    for row in content["rows"]:
        assert row["parameters"] == 175_066
        for task in ("train", "evaluate"):
            assert len(row[task]) == 2
            assert min(row[task]) > 0
        assert f"| {row['method']} | {row['side']} | " in out
        parts = row["first_step_parts"]
        assert min(parts.values()) > 0
        assert sum(parts.values()) < row["first_step"]
        assert f"first step of {row['method']}, {row['side']}: {row['first_step']:.1f} s (im" in out
    assert content["input"]["8"] > 0
