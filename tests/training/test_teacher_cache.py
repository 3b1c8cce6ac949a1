"""A teacher's outputs for every training image: when they are kept, how often computed, where."""

import functools
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from amdjax import distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.experiment import RunSpec
from amdjax.losses import register_loss
from amdjax.models import Model, Outputs, register_model
from amdjax.models.layers import FeatureRecorder, classify, global_mean
from amdjax.training import teacher_cache
from amdjax.training.teacher_cache import TeacherCache, cache_teacher_outputs, is_cacheable
from amdjax.training.trainer import build_trainer


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
    return SimpleNamespace(
        objective=SimpleNamespace(attention_features=layers), dataset=SimpleNamespace(train=[0])
    )


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


# Of each image, for the losses below: 4 logits, an embedding of 128, maps of 256, 64 and 16.
_IMAGE_BYTES, _OUTPUT_BYTES = 16 * 16 * 3 + 4, 4 * (4 + 128 + 256 + 64 + 16)


def _is_cacheable(losses=("kd", "am", "at"), teacher="wrn_10_2", epochs=2, images=32, **settings):
    config = default.get_config()
    config.teacher.name, config.batch_size, config.epochs = teacher, 8, epochs
    config.update_from_flattened_dict(settings)
    spec = RunSpec(
        name="x",
        method="x",
        model="wrn_10_1",
        losses={name: config.losses[name].to_dict() for name in losses},
        seed=0,
        teacher="teacher",
    )
    source = InMemorySource(np.zeros((images, 16, 16, 3), np.uint8), np.zeros(images, np.int32))
    dataset = Dataset("zeros", ("a", "b", "c", "d"), (16, 16, 3), source, source)
    return is_cacheable(build_trainer(config, spec, dataset))


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher.cached": False},
        {"augment.padding": 2},
        {"augment.noise": 0.1},
        {"augment.policy": "randaugment"},
        {"augment.color_jitter": (0.1, 0.0, 0.0, 0.0)},
        {"augment.erasing": 0.5},
        {"mix.name": "mixup"},
        {"mix.name": "cutmix"},
        {"data.random_resized_crop": True},
    ],
)
def test_outputs_are_not_cached_where_the_teacher_sees_other_images_in_each_epoch(settings):
    assert _is_cacheable()
    assert not _is_cacheable(**settings)


def test_outputs_are_cached_where_images_are_mixed_after_the_teacher_has_seen_them():
    assert _is_cacheable(**{"mix.name": "mixup", "mix.teacher_sees_mixed": False})


def test_outputs_are_not_cached_for_losses_that_read_other_ones():
    assert not _is_cacheable(losses=("kd", "sp"))
    # The teacher's map, twice as large, would be pooled before its attention map is taken.
    larger = {"losses.at.features": ("stage2",), "losses.at.teacher_features": ("stage1",)}
    assert not _is_cacheable(**larger)


def test_attention_of_other_features_than_maps_is_not_cached():
    @register_model("of_tokens", "a network with tokens [B,N,C] in place of maps")
    class OfTokens(Model):
        @nn.compact
        def __call__(self, images, train=False, feature_hook=None):
            x = nn.Conv(8, (4, 4), strides=4)(images)
            record = FeatureRecorder(feature_hook)
            record("tokens", x.reshape(len(x), -1, x.shape[-1]))
            return classify(global_mean(x), record, self.num_classes)

    register = functools.partial(register_loss, summary="attention", attention_only=True)

    @register("token_attention", inputs=("teacher.features",), features=("tokens",))
    def token_attention(tokens):
        return jnp.mean(tokens**2, (1, 2))

    @register("own_attention", inputs=("student.features",), features=("stage3",))
    def own_attention(feature):
        return jnp.mean(feature**2, (1, 2, 3))

    assert not _is_cacheable(losses=("kd", "token_attention"), teacher="of_tokens")
    assert _is_cacheable(losses=("kd", "own_attention"), teacher="of_tokens")  # has no stage3


def test_outputs_are_cached_where_that_saves_time():
    assert not _is_cacheable(epochs=1)  # as many images as the cache computes
    assert not _is_cacheable(epochs=2, **{"augment.flip": True})  # two views of each
    assert _is_cacheable(epochs=3, **{"augment.flip": True})
    assert not _is_cacheable(max_steps=4)


def test_outputs_are_cached_within_the_memory_that_the_config_allows(monkeypatch):
    gib = 32 * _OUTPUT_BYTES / 2**30
    assert _is_cacheable(**{"data.memory_gib": gib})
    assert not _is_cacheable(**{"data.memory_gib": 0.99 * gib})
    flipped = {"epochs": 3, "augment.flip": True}  # two views of each image
    assert _is_cacheable(**flipped, **{"data.memory_gib": 2 * gib})
    assert not _is_cacheable(**flipped, **{"data.memory_gib": 1.99 * gib})
    assert _is_cacheable(**{"data.device_gib": 0.0})
    monkeypatch.setattr(distributed, "on_accelerator", lambda: True)
    both = gib + 32 * _IMAGE_BYTES / 2**30
    assert _is_cacheable(**{"data.device_gib": both})
    assert not _is_cacheable(**{"data.device_gib": 0.99 * both})  # the images alone fit
    assert _is_cacheable(**{"data.device_gib": 0.0})  # each batch is sent anyway
