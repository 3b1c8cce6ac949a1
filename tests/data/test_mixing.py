import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.data import mixing
from amdjax.errors import UserError

IMAGES = jax.random.normal(jax.random.key(0), (6, 8, 10, 3))
PARTNERS = IMAGES[::-1]
LABELS = jnp.asarray([0, 1, 2, 3, 0, 1])
ONE_HOT = np.asarray(jax.nn.one_hot(LABELS, 4))


def reverse(x: jax.Array) -> jax.Array:
    return x[::-1]


def settings(name: str, **values) -> ml_collections.ConfigDict:
    mix = default.get_config().mix
    mix.update({"name": name, **values})
    return mix


def mix_batch(mix: ml_collections.ConfigDict, seed: int = 0) -> mixing.MixedBatch:
    return mixing.create_mix(mix, reverse)(jax.random.key(seed), IMAGES, LABELS, 4)


def test_mixup_is_the_weighted_mean_of_image_and_partner():
    images, lam = mixing.mixup(jax.random.key(1), IMAGES, PARTNERS, 1.0)
    assert 0 < lam < 1
    np.testing.assert_allclose(images, lam * IMAGES + (1 - lam) * PARTNERS, rtol=1e-6)


def test_mixup_lam_has_the_beta_distribution():
    keys = jax.random.split(jax.random.key(0), 2000)
    lam_of = jax.jit(
        jax.vmap(lambda key, alpha: mixing.mixup(key, IMAGES, PARTNERS, alpha)[1], (0, None))
    )
    for alpha in (0.2, 1.0):
        lam = lam_of(keys, alpha)
        np.testing.assert_allclose(lam.mean(), 0.5, atol=0.03)
        np.testing.assert_allclose(lam.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.06)


def test_cutmix_pastes_one_box_and_returns_the_fraction_outside_it():
    for seed in range(20):
        zeros, ones = jnp.zeros_like(IMAGES), jnp.ones_like(IMAGES)
        images, lam = mixing.cutmix(jax.random.key(seed), zeros, ones, 1.0)
        box = np.asarray(images[0, :, :, 0])
        assert set(np.unique(box)) <= {0.0, 1.0}
        np.testing.assert_allclose(lam, 1 - box.mean(), rtol=1e-6)
        np.testing.assert_array_equal(images, np.broadcast_to(box[None, :, :, None], images.shape))
        rows, columns = box.any(1), box.any(0)
        np.testing.assert_array_equal(box, np.outer(rows, columns))
        for side in (rows, columns):
            assert np.abs(np.diff(side.astype(int))).sum() <= 2  # one run of pixels


def test_exchange_moments_normalises_and_applies_the_moments_of_the_partners():
    x, partners = np.asarray(IMAGES, np.float64), np.asarray(PARTNERS * 2 + 1, np.float64)
    out = np.asarray(mixing.exchange_moments(IMAGES, PARTNERS * 2 + 1))
    np.testing.assert_allclose(out.mean(-1), partners.mean(-1), atol=1e-5)
    np.testing.assert_allclose(out.std(-1), partners.std(-1), rtol=1e-2, atol=1e-2)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)
    scale = np.sqrt(partners.var(-1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        out, normal * scale + partners.mean(-1, keepdims=True), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mix_weights_labels_as_images(name):
    mixed = mix_batch(settings(name, alpha=1.0))
    assert mixed.feature_hook is None
    np.testing.assert_allclose(mixed.labels.sum(1), 1.0, rtol=1e-6)
    lam = mixed.labels[1, 1]  # of the example with label 1, whose partner has label 0
    np.testing.assert_allclose(mixed.labels, lam * ONE_HOT + (1 - lam) * ONE_HOT[::-1], atol=1e-6)
    assert np.abs(mixed.images - IMAGES).max() > 0
    if name == "mixup":
        np.testing.assert_allclose(mixed.images, lam * IMAGES + (1 - lam) * PARTNERS, atol=1e-6)


def test_mix_draws_its_weight_from_the_beta_distribution_of_alpha():
    for seed in range(3):
        labels = mix_batch(settings("mixup", alpha=1e4), seed).labels
        np.testing.assert_allclose(labels, (ONE_HOT + ONE_HOT[::-1]) / 2, atol=0.03)


def test_moex_changes_one_layer_and_the_labels():
    mixed = mix_batch(settings("moex", layer="stage2", moex_lam=0.7))
    np.testing.assert_array_equal(mixed.images, IMAGES)
    np.testing.assert_array_equal(mixed.feature_hook("stage1", IMAGES), IMAGES)
    expected = mixing.exchange_moments(IMAGES, PARTNERS)
    np.testing.assert_array_equal(mixed.feature_hook("stage2", IMAGES), expected)
    np.testing.assert_allclose(mixed.labels[1], [0.3, 0.7, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "moex"])
def test_mix_is_applied_with_its_probability(name):
    unmixed = mix_batch(settings(name, probability=0.0))
    np.testing.assert_array_equal(unmixed.labels, ONE_HOT)
    np.testing.assert_array_equal(unmixed.images, IMAGES)
    if name == "moex":
        np.testing.assert_array_equal(unmixed.feature_hook("stem", IMAGES), IMAGES)
    mix = settings(name, probability=0.3, alpha=1.0)
    count = sum((np.asarray(mix_batch(mix, seed).labels) != ONE_HOT).any() for seed in range(60))
    assert 8 <= count <= 30


@pytest.mark.parametrize("name", ["mixup", "moex"])  # cutmix finds its partners as mixup does
def test_mix_partners_do_not_depend_on_the_number_of_devices(name):
    mix = mixing.create_mix(settings(name, alpha=1.0), distributed.reverse_batch)
    batch = {"image": jax.random.normal(jax.random.key(1), (8, 6, 6, 3)), "label": np.arange(8) % 4}

    def step(key, batch):
        mixed = mix(key, batch["image"], batch["label"], 4)
        hook = mixed.feature_hook or (lambda layer, x: x)
        return distributed.all_gather(hook("stem", mixed.images)), distributed.all_gather(
            mixed.labels
        )

    def run(devices: int) -> tuple[jax.Array, jax.Array]:
        mesh = distributed.make_mesh(jax.devices()[:devices])
        mapped = distributed.shard_step(step, mesh, batch_argument=1)
        return mapped(jax.random.key(0), distributed.shard(batch, mesh))

    (images, labels), (expected_images, expected_labels) = run(4), run(1)
    assert np.abs(expected_images - batch["image"]).max() > 0
    np.testing.assert_allclose(images, expected_images, atol=1e-6)
    np.testing.assert_allclose(labels, expected_labels, atol=1e-6)


def test_create_mix_returns_none_without_mixing():
    assert mixing.create_mix(settings("none"), reverse) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "mixpu"}, "unknown mix 'mixpu'; did you mean mixup"),
        ({"name": "mixup", "alpha": 0.0}, "alpha must be above 0"),
        ({"name": "mixup", "probability": 1.5}, "probability must be at least 0 and at most 1"),
        ({"name": "moex", "moex_lam": -0.5}, "moex_lam must be at least 0 and at most 1"),
    ],
)
def test_create_mix_error_names_the_setting(values, message):
    with pytest.raises(UserError, match=message):
        mixing.create_mix(settings(**values), reverse)
