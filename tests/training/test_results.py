import dataclasses
import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest

from amdjax.comparison import holm_adjusted
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.run_description import RunDescription
from amdjax.training import results
from amdjax.training.results_file import write_results
from amdjax.training.results_table import format_results

DATA = Fingerprint("digits", ("0", "1"), (8, 8, 3), {"train": 8, "test": 4})
RESULT = results.RunResult(
    "resnet8",
    78_042,
    {
        3: {"accuracy": 0.5, "nll": 1.5, "ece": 0.1},
        6: {"accuracy": 0.75, "nll": 1.25, "ece": 0.25},
        9: {"accuracy": 0.625, "nll": 1.0, "ece": 0.125},
    },
)


def test_final_is_the_last_evaluation_and_best_the_most_accurate():
    assert RESULT.final() == {"step": 9, "accuracy": 0.625, "nll": 1.0, "ece": 0.125}
    assert RESULT.best()["step"] == 6


def test_write_keeps_final_and_best_evaluations(tmp_path):
    write_results(tmp_path, DATA, {"teacher": {0: RESULT}, "kd": {0: RESULT}})
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["data"] == "digits"
    assert content["teacher"]["final"]["accuracy"] == 0.625
    assert content["methods"]["kd"]["best"]["accuracy"] == 0.75
    write_results(tmp_path, DATA, {"amc": {0: RESULT}})
    assert _read(tmp_path)["teacher"] is not None


def _read(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_write_keeps_the_runs_of_earlier_commands(tmp_path):
    write_results(tmp_path, DATA, {"teacher": {0: RESULT}, "kd": {0: _with_accuracy(0.75)}})
    write_results(tmp_path, DATA, {"at": {0: RESULT}, "kd": {1: _with_accuracy(0.5)}})
    content = _read(tmp_path)
    assert content["teacher"]["final"] == RESULT.final()
    assert list(content["methods"]) == ["at", "kd"]
    assert list(content["methods"]["kd"]["seeds"]) == ["0", "1"]
    assert content["methods"]["kd"]["final"]["accuracy"] == 0.625
    runs = [(run["label"], run["seed"]) for run in content["runs"]]
    assert runs == [("teacher", 0), ("at", 0), ("kd", 0), ("kd", 1)]


def _description(epochs=200, digest="", **settings):
    data = dataclasses.replace(DATA, digest=digest)
    settings = {"epochs": epochs, "seed": 5, **settings}
    return RunDescription(method="kd", seed=5, teacher=None, data=data, settings=settings)


def test_origin_of_tells_settings_and_data_apart():
    first = results.origin_of(_description(epochs=3), {})["settings"]
    assert results.origin_of(_description(epochs=3, seed=7), {})["settings"] == first
    assert results.origin_of(_description(epochs=4), {})["settings"] != first
    assert results.origin_of(_description(epochs=3, digest="other"), {})["settings"] != first
    # A setting that amdjax gets later has its default in runs that were trained before.
    added = results.origin_of(_description(epochs=3, accumulate=1), {})["settings"]
    assert added == first


def test_write_does_not_average_runs_of_different_length(tmp_path, capsys):
    (last,) = list(RESULT.evaluations.values())[-1:]
    longer = dataclasses.replace(RESULT, evaluations={1000: last})
    write_results(tmp_path, DATA, {"kd": {0: longer}})
    write_results(tmp_path, DATA, {"kd": {1: RESULT}})
    assert [run["seed"] for run in _read(tmp_path)["runs"]] == [1]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.endswith("no longer has kd with seed 0, which was trained for 1,000 steps, not 9")


def test_write_keeps_one_given_teacher(tmp_path, capsys):
    (last,) = list(RESULT.evaluations.values())[-1:]
    given = dataclasses.replace(RESULT, evaluations={0: last}, origin=results.origin_of(None, {}))
    other = dataclasses.replace(given, model="wrn_40_2")
    write_results(tmp_path, DATA, {"teacher": {0: given}, "kd": {0: RESULT}})
    write_results(tmp_path, DATA, {"teacher": {1: other}, "kd": {1: RESULT}})
    runs = [(run["label"], run["seed"]) for run in _read(tmp_path)["runs"]]
    assert runs == [("teacher", 1), ("kd", 0), ("kd", 1)]
    assert "no longer has" not in capsys.readouterr().err


def test_write_drops_earlier_seeds_of_other_settings_and_other_classes(tmp_path):
    def result(epochs):
        return results.RunResult(
            "resnet8", 1, RESULT.evaluations, results.origin_of(_description(epochs), {})
        )

    write_results(tmp_path, DATA, {"kd": {0: result(3), 1: result(4)}, "at": {0: result(3)}})
    write_results(tmp_path, DATA, {"kd": {2: result(4)}})
    assert list(_read(tmp_path)["methods"]["kd"]["seeds"]) == ["1", "2"]
    assert "at" in _read(tmp_path)["methods"]
    other = dataclasses.replace(DATA, class_names=("0", "2"))
    write_results(tmp_path, other, {"kd": {3: result(4)}})
    assert [(run["label"], run["seed"]) for run in _read(tmp_path)["runs"]] == [("kd", 3)]


def test_write_keeps_the_origin_of_a_run_that_was_finished_before(tmp_path):
    first, second = (
        results.origin_of(_description(epochs=3), {"devices": devices}, seconds)
        for devices, seconds in ((1, 2.5), (4, None))
    )
    kd = _with_accuracy(0.75)
    write_results(tmp_path, DATA, {"kd": {0: dataclasses.replace(kd, origin=first)}})
    write_results(tmp_path, DATA, {"kd": {0: dataclasses.replace(kd, origin=second)}})
    (run,) = _read(tmp_path)["runs"]
    assert run["origin"] == first
    assert (run["origin"]["seconds"], run["origin"]["devices"]) == (2.5, 1)
    assert Fingerprint.from_dict(_read(tmp_path)["fingerprint"]) == DATA


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"null", b"[]", b'{"runs": 5}', b'{"runs": [{}]}', None]
)
def test_write_replaces_a_damaged_file(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    path.mkdir() if content is None else path.write_bytes(content)
    write_results(tmp_path, DATA, {"kd": {0: RESULT}})
    assert list(_read(tmp_path)["methods"]) == ["kd"]
    assert "results.json is damaged" in capsys.readouterr().err


def test_write_keeps_a_file_that_cannot_be_read_now(tmp_path, monkeypatch):
    write_results(tmp_path, DATA, {"kd": {0: RESULT}})
    before = (tmp_path / "results.json").read_text()

    def fail(_):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=r"results\.json cannot be read now: Stale file handle"):
            write_results(tmp_path, DATA, {"at": {0: RESULT}})
    assert (tmp_path / "results.json").read_text() == before


def test_table_has_a_line_for_each_network():
    lines = format_results({"teacher": {0: RESULT}, "amd_gl": {0: RESULT}}).splitlines()
    assert lines[0].split()[:2] == ["network", "parameters"]
    assert lines[3].split() == ["amd_gl", "resnet8", "78,042", "62.50", "1.0000", "12.50", "75.00"]
    assert len({len(line) for line in lines[2:4]}) == 1


def _with_accuracy(accuracy):
    return results.RunResult("resnet8", 1, {9: {"accuracy": accuracy, "nll": 1.0, "ece": 0.125}})


SEVERAL = {
    "teacher": {0: RESULT},
    "amd_gl": dict(enumerate(map(_with_accuracy, (0.75, 0.875, 0.8125)))),
    "kd": dict(enumerate(map(_with_accuracy, (0.625, 0.625, 0.6875)))),
}


def test_compare_pairs_methods_by_seed():
    (entry,) = results.compare(SEVERAL)
    assert (entry.method, entry.baseline, entry.seeds) == ("amd_gl", "kd", 3)
    difference = np.array([0.125, 0.25, 0.125])
    np.testing.assert_allclose(entry.difference, difference.mean())
    statistic = difference.mean() / (difference.std(ddof=1) / np.sqrt(3))
    # Student's t with two degrees of freedom has this tail.
    p_value = 1 - statistic / np.sqrt(2 + statistic**2)
    np.testing.assert_allclose(entry.p_value, p_value, rtol=1e-6)
    assert results.compare({"kd": {0: RESULT}, "at": {0: RESULT}}) == []


def test_write_keeps_mean_and_deviation_of_several_seeds(tmp_path):
    write_results(tmp_path, DATA, SEVERAL)
    content = json.loads((tmp_path / "results.json").read_text())
    row = content["methods"]["amd_gl"]
    np.testing.assert_allclose(row["final"]["accuracy"], 0.8125)
    np.testing.assert_allclose(row["std"]["final"]["accuracy"], 0.0625)
    assert row["seeds"]["1"]["final"]["accuracy"] == 0.875
    assert content["comparisons"][0]["method"] == "amd_gl"
    table = format_results(SEVERAL)
    assert "81.25 ± 6.25" in table
    assert "amd_gl - kd  +16.67 points  p = 0.0572" in table


def test_p_values_are_adjusted_for_the_number_of_tests():
    # 0.01 * 4, 0.02 * 3, then not below the one before: max(0.06, 0.025 * 2), max(0.06, 0.04 * 1).
    adjusted = holm_adjusted([0.02, math.nan, 0.01, 0.04, 0.025])
    np.testing.assert_allclose(adjusted, [0.06, math.nan, 0.04, 0.06, 0.06])
    assert holm_adjusted([0.7, 0.6]) == [1.0, 1.0] and holm_adjusted([]) == []


def test_table_has_adjusted_p_values_if_there_are_several_tests():
    several = {**SEVERAL, "at": SEVERAL["kd"]}
    assert "Holm" not in format_results(several)  # the test of equal runs has no p-value
    several["sp"] = dict(enumerate(map(_with_accuracy, (0.625, 0.75, 0.6875))))
    amd_gl, _, sp = results.compare(several)
    np.testing.assert_allclose(amd_gl.adjusted_p, 2 * amd_gl.p_value)
    *_, heading, one, other, last = format_results(several).splitlines()
    assert "p after Holm's adjustment for 2 tests" in heading
    assert one.split()[-4:] == ["p", "=", "0.0572", "0.114"]
    assert other.split() == ["at", "-", "kd", "+0.00", "points", "p", "not", "defined"]
    assert last.split()[-1] == f"{sp.adjusted_p:.3g}"


def test_table_says_over_how_many_seeds_a_difference_is_where_methods_have_others():
    fewer = {**SEVERAL, "amd_gl": {seed: SEVERAL["amd_gl"][seed] for seed in (0, 1)}}
    assert "points (2 seeds)" in format_results(fewer)
    assert "seeds)" not in format_results(SEVERAL)


def test_write_has_null_for_an_undefined_p_value(tmp_path):
    same = {**SEVERAL, "amd_gl": SEVERAL["kd"]}
    assert "p not defined" in format_results(same)
    write_results(tmp_path, DATA, same)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["comparisons"][0]["p_value"] is content["comparisons"][0]["adjusted_p"] is None


def _given(digests):
    return [{"source": path, "step": 9, "digest": digest} for path, digest in digests.items()]


def _result(
    accuracy, epochs=3, losses=None, step=9, digest="", given=None, trained=None, **settings
):
    settings = {"losses": losses or {"ce": {"weight": 1.0}}, **settings}
    description = _description(epochs, digest, **settings)
    description = dataclasses.replace(description, teacher_checkpoints=tuple(_given(given or {})))
    origin = results.origin_of(description, {}, trained=trained)
    values = {"accuracy": accuracy, "nll": 1.0, "ece": 0.125}
    return results.RunResult("resnet8", 1, {step: values}, origin)


KD = {"kd": {"weight": 1.0}}


def test_comparisons_leave_out_runs_that_differ_in_more_than_the_method(tmp_path, capsys):
    teacher = {"name": "wrn_16_3", "checkpoint": "runs/a/teacher"}
    early, other = {**teacher, "early_fraction": 0.25}, {**teacher, "checkpoint": "runs/b/teacher"}
    students = {
        "kd": {seed: _result(0.5, teacher=teacher) for seed in (0, 1)},
        "eskd": {seed: _result(0.6, teacher=early, losses=KD) for seed in (0, 1)},
        "scratch": {seed: _result(0.7) for seed in (0, 1)},
        "at": {seed: _result(0.7, teacher=other) for seed in (0, 1)},
        "sp": {0: _result(0.7, 4), 1: _result(0.7), 2: _result(0.7, step=8)},
        "ft": {0: _result(0.7, digest="new"), 1: _with_accuracy(0.7)},  # not known of 1
    }
    for method, by_seed in students.items():
        write_results(tmp_path, DATA, {method: by_seed})
    compared = [entry["method"] for entry in _read(tmp_path)["comparisons"]]
    assert sorted(compared) == ["eskd", "scratch"]
    notes = set(capsys.readouterr().err.splitlines())
    for sentence in (
        "at with seed 1 is not compared (teacher.checkpoint: 'runs/b/teacher', kd "
        "'runs/a/teacher')",
        "sp with seed 0 is not compared (epochs: 4, kd 3)",
        "sp with seed 2 is not compared (steps: 8, kd 9)",
        "ft with seed 0 is not compared (images.digest: 'new', kd '')",
    ):
        assert f"note: {sentence}" in notes
    assert not any("scratch" in note or "eskd" in note for note in notes)


def test_means_are_of_the_runs_that_are_compared(tmp_path):
    runs = {
        "kd": {0: _result(0.9), 3: _result(0.5, step=8), 4: _result(0.7, step=8)},
        "at": {seed: _result(0.6, step=8) for seed in (0, 3, 4)},
        "sp": {0: _result(0.8)},  # has no other runs
    }
    write_results(tmp_path, DATA, runs)
    rows = _read(tmp_path)["methods"]
    assert list(rows["kd"]["seeds"]) == ["3", "4"]
    np.testing.assert_allclose(rows["kd"]["final"]["accuracy"], 0.6)
    assert rows["sp"]["final"]["accuracy"] == 0.8
    lines = format_results(runs).splitlines()
    assert any(line.startswith("kd ") and "60.00 ± 14.14" in line for line in lines)
    assert any("standard deviation over 2 or 3 seeds" in line for line in lines)


def _not_compared(tmp_path, capsys, kd, **students):
    """Writes the results of kd, then of other methods, and returns the notes."""
    write_results(tmp_path, DATA, {"kd": kd})
    write_results(tmp_path, DATA, {method: {0: one} for method, one in students.items()})
    return capsys.readouterr().err.splitlines()


TRAINED = {"name": "wrn_16_3", "seed": 0, "checkpoint": ""}
GIVEN = {"name": "wrn_16_3", "seed": 0, "checkpoint": "runs/x/teacher"}
ELSEWHERE = {"name": "WRN-16-3", "seed": 4, "checkpoint": "/disk/runs/x/teacher"}


@pytest.mark.parametrize(
    ("kd", "at"),
    [
        # The teacher that kd has trained in this workdir, given by its path.
        (
            {"teacher": TRAINED, "trained": "1"},
            {"teacher": GIVEN, "given": {"runs/x/teacher": "1"}},
        ),
        # A given teacher by another path, and with another seed.
        (
            {"teacher": GIVEN, "given": {"runs/x/teacher": "1"}},
            {"teacher": ELSEWHERE, "given": {"/disk/runs/x/teacher": "1"}},
        ),
        # A teacher whose digest is known of one run alone.
        ({"teacher": GIVEN, "given": {"runs/x/teacher": "1"}}, {"teacher": GIVEN}),
        ({"teacher": GIVEN}, {"teacher": GIVEN, "given": {"runs/x/teacher": "1"}}),
        # A file of weights has no digest, and its teacher no seed.
        ({"teacher": GIVEN}, {"teacher": {**GIVEN, "seed": 4}}),
        # A teacher that was trained again from a checkpoint before its last.
        ({"teacher": TRAINED, "trained": "1"}, {"teacher": TRAINED, "trained": "2"}),
        # The teacher of eskd, which trains it itself.
        (
            {"teacher": GIVEN, "given": {"runs/x/teacher": "1"}},
            {"teacher": {**TRAINED, "early_fraction": 0.25}, "trained": "2"},
        ),
        ({}, {"eval_every_epochs": 5}),
        ({"eval_every_epochs": 5}, {}),
        ({}, {"augment": {"strong_policy": "trivialaugment", "randaugment": {"magnitude": 3}}}),
        ({}, {"data": {"validation_seed": 3}}),
        ({}, {"augment": {"pad_mode": "reflect"}}),
        ({}, {"optim": {"beta1": 0.5, "beta2": 0.5, "end_learning_rate": 0.01}}),
        ({}, {"mix": {"name": "none", "layer": "stage1"}}),
    ],
)
def test_comparisons_are_of_runs_that_differ_in_nothing_that_matters(tmp_path, capsys, kd, at):
    kd = {seed: _result(0.5, **kd) for seed in (0, 1)}
    assert _not_compared(tmp_path, capsys, kd, at=_result(0.6, **at)) == []
    # More seeds of a method are averaged with it in the same cases, but for the teacher's kind.
    if "early_fraction" not in at.get("teacher", {}):
        write_results(tmp_path, DATA, {"kd": {2: _result(0.6, **at)}})
        assert capsys.readouterr().err == ""
        assert list(_read(tmp_path)["methods"]["kd"]["seeds"]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("kd", "at", "difference"),
    [
        (
            {"teacher": GIVEN, "given": {"runs/x/teacher": "1"}},
            {"teacher": GIVEN, "given": {"runs/x/teacher": "2"}},
            "teacher.digest: '2', kd '1'",
        ),
        (
            {"teacher": TRAINED, "trained": "1"},
            {"teacher": GIVEN, "given": {"runs/x/teacher": "2"}},
            "teacher.checkpoint: 'runs/x/teacher', kd ''; teacher.digest: '2', kd '1'",
        ),
        ({"teacher": TRAINED}, {"teacher": {**TRAINED, "seed": 1}}, "teacher.seed: 1, kd 0"),
        (
            {"data": {"validation": 0.1}},
            {"data": {"validation": 0.1, "validation_seed": 3}},
            "data.validation_seed: 3, kd 0",
        ),
        (
            {"optim": {"name": "adam"}},
            {"optim": {"name": "adam", "beta1": 0.5}},
            "optim.beta1: 0.5, kd 0.9",
        ),
        (
            {"augment": {"policy": "randaugment"}},
            {"augment": {"policy": "randaugment", "randaugment": {"magnitude": 3}}},
            "augment.randaugment.magnitude: 3, kd 9",
        ),
    ],
)
def test_comparisons_leave_out_runs_of_other_conditions(tmp_path, capsys, kd, at, difference):
    (note,) = _not_compared(tmp_path, capsys, {0: _result(0.5, **kd)}, at=_result(0.6, **at))
    assert note == f"note: at with seed 0 is not compared ({difference})"
    write_results(tmp_path, DATA, {"sp": {0: _result(0.6, **kd)}})
    assert capsys.readouterr().err == ""  # it was said before


def test_write_names_an_incomparable_run_each_time_that_it_is_part_of_the_command(tmp_path, capsys):
    sp = {"sp": {0: _result(0.7, 4)}}
    write_results(tmp_path, DATA, {"kd": {0: _result(0.5)}})
    for part, is_named in ((sp, True), ({"at": {0: _result(0.6)}}, False), (sp, True)):
        write_results(tmp_path, DATA, part)
        notes = capsys.readouterr().err.splitlines()
        assert notes == ["note: sp with seed 0 is not compared (epochs: 4, kd 3)"] * is_named


def test_settings_of_the_second_view_belong_to_the_methods_that_read_it(tmp_path, capsys):
    second = {"strong_policy": "trivialaugment"}
    for method, losses in (("mlkd", {"mlkd": {"weight": 1.0}}), ("kd", KD)):
        for seed, augment in enumerate(({"flip": False}, second)):
            write_results(
                tmp_path, DATA, {method: {seed: _result(0.5, losses=losses, augment=augment)}}
            )
    assert "seed 0, which was trained with other settings or on" in capsys.readouterr().err
    runs = {(run["label"], run["seed"]) for run in _read(tmp_path)["runs"]}
    assert runs == {("mlkd", 1), ("kd", 0), ("kd", 1)}
