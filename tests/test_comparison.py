import dataclasses

import numpy as np
import pytest

from amdjax.checkpoint_files import checkpoint_digest
from amdjax.comparison import (
    baseline_of,
    compare_accuracies,
    compare_conditions,
    conditions_of,
    learned_from,
)
from amdjax.data import Fingerprint
from amdjax.trained import restore

DATA = Fingerprint("digits", ("0", "1"), (8, 8, 3), {"train": 8, "test": 4})


def test_compare_accuracies_has_no_p_value_for_equal_differences():
    # Each seed has one image more right, of 360; in float32 the differences are not all equal.
    right = (279, 254, 257)
    kd, other = (
        {seed: float(np.float32(hits + more) / np.float32(360)) for seed, hits in enumerate(right)}
        for more in (0, 1)
    )
    assert len({other[seed] - kd[seed] for seed in kd}) > 1
    (entry,) = compare_accuracies({"kd": kd, "at": other})
    np.testing.assert_allclose(entry.difference, 1 / 360, rtol=1e-5)
    assert np.isnan(entry.p_value)


def test_compare_accuracies_uses_common_seeds_only():
    kd, at = {0: 0.5, 1: 0.625, 4: 0.75}, {1: 0.75, 4: 0.8125, 7: 1.0}
    (entry,) = compare_accuracies({"at": at, "kd": kd, "amd_gl": {0: 0.5}})
    assert (entry.method, entry.baseline, entry.seeds) == ("at", "kd", 2)
    np.testing.assert_allclose(entry.difference, (0.125 + 0.0625) / 2)
    assert compare_accuracies({}) == []


@pytest.mark.parametrize(
    "baselines",
    [
        {"at": "kd", "kd": "kd", "amd_g-am.margin=1.1": "kd", "amd_g-am.margin=1.5": "kd"},
        {"scratch": "scratch", "at": "scratch", "amd_g-am.margin=1.1": "scratch"},
        {"kd-t=1": "kd-t=1", "kd-t=2": "kd-t=1", "dkd-t=1": "kd-t=1", "dkd-t=2": "kd-t=2"},
        {"dkd-t=1": "kd-t=1", "dkd-t=2": "kd-t=2", "kd-t=1": "kd-t=1", "kd-t=2": "kd-t=1"},
        {"at": "at", "kd-t=1": "at", "kd-t=2": "at", "dkd-t=2": "kd-t=2", "dkd-t=3": "at"},
        {"kd": "kd", "at": "kd", "kd-t=2": "kd", "dkd-t=2": "kd-t=2", "dkd-t=3": "kd"},
        {"kd": "kd", "kd-kd.weight=2.0": "kd", "amd_g-am.weight=2.0": "kd"},
    ],
)
def test_baseline_is_kd_with_the_swept_value_or_kd_or_the_first_method(baselines):
    assert {method: baseline_of(baselines, method) for method in baselines} == baselines
    accuracies = {method: {0: 0.5, 1: 0.75} for method in baselines}
    assert {entry.method: entry.baseline for entry in compare_accuracies(accuracies)} == {
        method: baseline for method, baseline in baselines.items() if method != baseline
    }


def test_teachers_of_an_ensemble_are_compared_with_their_weights():
    members = [{"checkpoint": path, "weight": 0.5} for path in ("a", "b")]
    given = [{"source": path, "step": 9, "digest": path} for path in ("a", "b")]
    moved = [{**one, "checkpoint": f"/disk/{one['checkpoint']}"} for one in members]
    heavier = [{**one, "weight": weight} for one, weight in zip(members, (0.75, 0.25), strict=True)]

    def conditions(ensemble, given):
        return {0: conditions_of({"teacher": {"ensemble": ensemble}}, DATA, given)}

    elsewhere = [{**one, "source": f"/disk/{one['source']}"} for one in given]
    different = compare_conditions(
        {
            "kd": conditions(members, given),
            "at": conditions(moved, elsewhere),
            "sp": conditions(heavier, given),
            "ft": conditions(moved, elsewhere[:1]),
        },
        baseline="kd",
    )
    assert different.keys() == {"sp", "ft"}


def test_runs_are_compared_with_the_conditions_of_most_seeds_of_the_baseline():
    def conditions(epochs):
        return conditions_of({"epochs": epochs}, DATA)

    one, other = conditions(3), conditions(4)
    kd = {0: None, 1: other, 2: one, 3: one}
    different = compare_conditions({"kd": kd, "at": {0: one, 1: other, 2: None}}, "kd")
    assert different == {"kd": {1: "epochs: 4, kd 3"}, "at": {1: "epochs: 4, kd 3"}}
    assert compare_conditions({"kd": {0: None}, "at": {0: one, 1: other}}, "kd") == {}


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ({}, True),
        ({"seed": 1}, False),
        ({"name": "wrn_16_1"}, False),
        ({"checkpoint": "elsewhere/teacher"}, False),
        ({"outputs": "a digest"}, False),
    ],
)
def test_learned_from_tells_a_trained_teacher_from_others(trained, settings, learned):
    student, teacher = (restore(trained / name) for name in ("kd", "teacher"))
    settings = settings if "outputs" in settings else {**student.settings["teacher"], **settings}
    student = dataclasses.replace(student, settings={**student.settings, "teacher": settings})
    assert learned_from(student, teacher, trained) is learned


def test_learned_from_tells_checkpoints_apart(trained):
    student, teacher = (restore(trained / name) for name in ("kd", "teacher"))
    digest = checkpoint_digest(trained / "teacher/checkpoints/16")

    def given(network, source, digest):
        settings = {"teacher": {"name": "wrn_10_1", "seed": 0, "checkpoint": source}}
        checkpoint = {"source": source, "step": 16, "digest": digest}
        return dataclasses.replace(network, settings=settings, teacher_checkpoints=(checkpoint,))

    assert learned_from(given(student, "a", "1"), given(teacher, "a", "1"), trained)
    assert learned_from(given(student, "a", "1"), given(teacher, "b", "1"), trained)  # a copy
    assert not learned_from(given(student, "a", "1"), given(teacher, "a", "2"), trained)
    # The teacher that was trained in the workdir may be given later.
    assert learned_from(student, given(teacher, "a", digest), trained)
    assert learned_from(given(student, "a", digest), teacher, trained)
    assert not learned_from(student, given(teacher, "a", "1"), trained)


def test_learned_from_compares_how_early_a_teacher_was_stopped(trained):
    student, teacher = (restore(trained / name) for name in ("kd", "teacher"))
    settings = {**teacher.settings, "epoch_fraction": 0.3}
    early = dataclasses.replace(teacher, method="teacher_early", settings=settings)

    def of_fraction(fraction):
        teacher = {**student.settings["teacher"], "early_fraction": fraction}
        return dataclasses.replace(student, settings={**student.settings, "teacher": teacher})

    assert learned_from(of_fraction(0.3), early, trained)
    assert not learned_from(of_fraction(0.5), early, trained)
