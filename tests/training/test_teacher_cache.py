"""How often a teacher's outputs are computed for the runs of an experiment."""

import weakref
from types import SimpleNamespace

import numpy as np

from amdjax.training import teacher_cache
from amdjax.training.teacher_cache import TeacherCache


def _trainer(*layers):
    return SimpleNamespace(objective=SimpleNamespace(attention_features=layers))


def test_teacher_cache_computes_once_for_runs_that_read_the_same(monkeypatch):
    calls, kept = [], []

    def compute(trainer, variables):
        assert not any(outputs() is not None for outputs in kept)  # never two of them
        calls.append((variables["teacher"], trainer.objective.attention_features))
        outputs = np.empty(1)
        kept.append(weakref.ref(outputs))
        return outputs

    monkeypatch.setattr(teacher_cache, "cache_teacher_outputs", compute)
    cache = TeacherCache()
    for teacher, layers, computed in (
        ("teacher", (), True),
        ("teacher", (), False),
        ("teacher", ("stage1", "stage2"), True),
        ("teacher", ("stage1", "stage2"), False),
        ("early_teacher", ("stage1", "stage2"), True),
        ("teacher", ("stage1", "stage2"), True),
    ):
        before = len(calls)
        outputs = cache.outputs(_trainer(*layers), teacher, {"teacher": teacher})
        assert outputs is kept[-1]()
        assert calls[before:] == [(teacher, layers)] * computed
        del outputs
