"""Whether the runs of a workdir learned from one teacher or from several."""

import dataclasses

import pytest

from amdjax.checkpoint import digest_of
from amdjax.trained import restore
from amdjax.training.conditions import learned_from


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
    digest = digest_of(trained / "teacher/checkpoints/16")

    def given(network, source, digest):
        settings = {"teacher": {"name": "wrn_10_1", "seed": 0, "checkpoint": source}}
        checkpoint = {"source": source, "step": 16, "digest": digest}
        return dataclasses.replace(network, settings=settings, given_teacher=(checkpoint,))

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
