"""The command `python -m amdjax.report`."""

import json
import sys
from pathlib import Path

import pytest

from tests.tiny_run import finish, start
from tests.trained_run import change, copy

REPORT = [sys.executable, "-m", "amdjax.report"]


@pytest.mark.slow
def test_report_command_writes_page_figures_and_numbers(trained: Path, tmp_path: Path):
    workdir = copy(trained, tmp_path / "run")
    code, out, err = finish([*REPORT, f"--workdir={workdir}", "--images=3,0"])
    assert code == 0, err
    page = workdir / "report" / "index.html"
    assert out.splitlines()[-1] == str(page)
    assert err == ""  # no progress bar outside of a terminal
    content = json.loads((workdir / "report" / "report.json").read_text())
    assert content["samples"] == [3, 0]
    results = json.loads((workdir / "results.json").read_text())
    accuracy = {row["method"]: row["scores"]["top1"]["mean"] for row in content["methods"]}
    assert accuracy == {
        "teacher": pytest.approx(results["teacher"]["final"]["accuracy"]),
        "kd": pytest.approx(results["methods"]["kd"]["final"]["accuracy"]),
    }
    names = {"reliability", "tsne", "attention", "gradcam", "losses", "am_accuracy"}
    assert names <= {file.stem for file in page.parent.glob("*.png")}


def test_report_command_finds_images_that_were_moved(trained: Path, images: Path, tmp_path: Path):
    workdir, moved = copy(trained, tmp_path / "run"), copy(images, tmp_path / "moved")
    data = json.loads((workdir / "config.json").read_text())["data"]
    change(workdir / "config.json", data={**data, "folder": str(tmp_path / "former")})
    code, _, err = finish([*REPORT, f"--workdir={workdir}"])
    assert code == 2
    assert err == (
        f"error: the images are no longer in {tmp_path}/former; give their folder with "
        "--data_folder\n"
    )
    command = [*REPORT, f"--workdir={workdir}", f"--data_folder={moved}"]
    code, _, err = finish([*command, f"--data_dir={tmp_path}/prepared"])
    assert code == 0 and err.startswith("note: preparing folder in ") and err.count("\n") == 1
    content = json.loads((workdir / "report" / "report.json").read_text())
    assert {row["method"] for row in content["methods"]} == {"teacher", "kd"}
    assert not any("different test images" in note for note in content["notes"])


def test_report_command_reports_usage_errors_in_one_line():
    cases = {
        (): "--workdir=DIR, the workdir of the command amdjax, is missing",
        ("--workdir=nowhere", "--images=one"): "--images must be whole numbers, not one",
        ("--workdir=nowhere", "3"): "unexpected argument '3'",
        ("--workdir=nowhere", "--data_folder=gone"): "--data_folder: 'gone' is not a folder",
        ("--workdir=nowhere", "--config=digits.py"): "'config'",
    }
    processes = [start([*REPORT, *words]) for words in cases]
    for process, message in zip(processes, cases.values(), strict=True):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 2 and out == ""
        assert message in err
        assert len(err.splitlines()) == 1 and err.startswith("error: ")
