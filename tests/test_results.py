import json

from amdjax import results

OUTCOME = results.Outcome(
    "resnet8",
    78_042,
    {
        3: {"accuracy": 0.5, "nll": 1.5, "ece": 0.1},
        6: {"accuracy": 0.75, "nll": 1.25, "ece": 0.25},
        9: {"accuracy": 0.625, "nll": 1.0, "ece": 0.125},
    },
)


def test_final_is_the_last_and_best_the_most_accurate():
    assert OUTCOME.final() == {"step": 9, "accuracy": 0.625, "nll": 1.0, "ece": 0.125}
    assert OUTCOME.best()["step"] == 6


def test_results_file(tmp_path):
    results.write(tmp_path, "digits", {"teacher": OUTCOME, "kd": OUTCOME})
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["data"] == "digits"
    assert content["teacher"]["final"]["accuracy"] == 0.625
    assert content["methods"]["kd"]["best"]["accuracy"] == 0.75
    results.write(tmp_path, "digits", {"amc": OUTCOME})
    assert json.loads((tmp_path / "results.json").read_text())["teacher"] is None


def test_table_has_a_line_for_each_network():
    lines = results.table({"teacher": OUTCOME, "amd_gl": OUTCOME}).splitlines()
    assert lines[0].split()[:2] == ["model", "parameters"]
    assert lines[3].split() == ["amd_gl", "resnet8", "78,042", "62.50", "1.0000", "12.50", "75.00"]
    assert len({len(line) for line in lines[2:4]}) == 1
