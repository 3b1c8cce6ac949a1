"""The report of a finished run, by its command."""

import json
import sys

import pytest

from tests.tiny_run import finish
from tests.trained_run import copy, trained

REPORT = [sys.executable, "-m", "amdjax.report"]


@pytest.mark.slow
def test_a_run_has_a_report(images, tmp_path):
    workdir = copy(trained(images), tmp_path / "run")
    code, out, err = finish([*REPORT, f"--workdir={workdir}", "--images=3,0"])
    assert code == 0, err
    page = workdir / "report" / "index.html"
    assert out.splitlines()[-1] == str(page)
    assert err == ""  # no bar where there is no terminal
    content = json.loads((workdir / "report" / "report.json").read_text())
    assert content["shown"] == [3, 0]
    results = json.loads((workdir / "results.json").read_text())
    accuracy = {row["method"]: row["scores"]["top1"]["mean"] for row in content["methods"]}
    assert accuracy == {
        "teacher": pytest.approx(results["teacher"]["final"]["accuracy"]),
        "kd": pytest.approx(results["methods"]["kd"]["final"]["accuracy"]),
    }
    names = {"reliability", "tsne", "attention", "gradcam", "losses", "am_accuracy"}
    assert names <= {file.stem for file in page.parent.glob("*.png")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--workdir=DIR is missing"),
        (["--workdir=nowhere", "--images=one"], "--images must be whole numbers, not one"),
        (["--workdir=nowhere", "3"], "3 is no flag of this command"),
    ],
)
def test_mistakes_are_one_line(flags, message):
    code, out, err = finish([*REPORT, *flags])
    assert code == 2 and out == ""
    assert message in err
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
