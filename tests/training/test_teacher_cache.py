"""A teacher's outputs for every training image: their rows, and how often they are computed."""

import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from amdjax import distributed
from amdjax.data import InMemorySource
from amdjax.models import Outputs
from amdjax.training import teacher_cache
from amdjax.training.teacher_cache import TeacherCache, cache_teacher_outputs


def numbering_trainer(mesh):
    """A trainer of ten images, whose teacher's logit is the number of the image."""
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)

    def apply(variables, images, train):
        number = jnp.mean(images, axis=(1, 2))[:, :1]
        return Outputs(logits=number, features={}, embedding=number)

    return SimpleNamespace(
        config=SimpleNamespace(batch_size=8, accumulate=1, augment=SimpleNamespace(flip=False)),
        dataset=SimpleNamespace(train=InMemorySource(images, np.zeros(10, np.int32))),
        objective=SimpleNamespace(attention_features=()),
        predictor=SimpleNamespace(normalize=lambda images: images.astype(jnp.float32)),
        teacher=SimpleNamespace(apply=apply),
        mesh=mesh,
    )


def test_cache_has_the_outputs_of_each_image_in_its_row():
    cache = cache_teacher_outputs(numbering_trainer(distributed.make_mesh(jax.devices()[:2])), {})
    np.testing.assert_array_equal(cache.logits[:, 0, 0], np.arange(10))


def test_cache_is_given_up_at_a_request_to_stop():
    answers = [False, True]
    trainer = numbering_trainer(distributed.make_mesh(jax.devices()[:2]))
    assert cache_teacher_outputs(trainer, {}, lambda: answers.pop(0)) is None
    assert answers == []


def _trainer(*layers):
    return SimpleNamespace(objective=SimpleNamespace(attention_features=layers))


def test_teacher_cache_computes_once_for_runs_that_read_the_same(monkeypatch):
    calls, kept = [], []

    def compute(trainer, variables, stop_requested):
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
        outputs = cache.outputs(_trainer(*layers), teacher, {"teacher": teacher}, bool)
        assert outputs is kept[-1]()
        assert calls[before:] == [(teacher, layers)] * computed
        del outputs
