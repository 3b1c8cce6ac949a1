import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import distributed
from amdjax.data import mixing
from amdjax.errors import UserError
from configs import default

IMAGES = jax.random.normal(jax.random.key(0), (6, 8, 10, 3))
LABELS = jnp.asarray([0, 1, 2, 3, 0, 1])


def _reverse(x):
    return x[::-1]


def _config(name, **values):
    config = default.get_config().mix
    config.update({"name": name, **values})
    return config


def _mixed(config, seed=0):
    return mixing.create_mix(config, _reverse)(jax.random.key(seed), IMAGES, LABELS, 4)


def test_mixup():
    images, share = mixing.mixup(jax.random.key(1), IMAGES, IMAGES[::-1], 1.0)
    assert 0 < share < 1
    np.testing.assert_allclose(images, share * IMAGES + (1 - share) * IMAGES[::-1], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_share_follows_the_beta_distribution(alpha):
    keys = jax.random.split(jax.random.key(0), 2000)
    shares = jax.vmap(lambda key: mixing.mixup(key, IMAGES, IMAGES, alpha)[1])(keys)
    np.testing.assert_allclose(shares.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.06)


def test_cutmix_pastes_a_box_and_counts_it():
    for seed in range(20):
        ones = jnp.ones_like(IMAGES)
        images, share = mixing.cutmix(jax.random.key(seed), jnp.zeros_like(IMAGES), ones, 1.0)
        box = np.asarray(images[0, :, :, 0])
        assert set(np.unique(box)) <= {0.0, 1.0}
        np.testing.assert_allclose(share, 1 - box.mean(), rtol=1e-6)
        np.testing.assert_array_equal(images, np.broadcast_to(box[None, :, :, None], images.shape))
        rows, columns = box.any(1), box.any(0)
        np.testing.assert_array_equal(box, np.outer(rows, columns))
        for side in (rows, columns):
            assert np.abs(np.diff(side.astype(int))).sum() <= 2  # one run of pixels


def test_moments_are_exchanged():
    x, partners = np.asarray(IMAGES, np.float64), np.asarray(IMAGES[::-1] * 2 + 1, np.float64)
    out = np.asarray(mixing.exchange_moments(jnp.asarray(IMAGES), IMAGES[::-1] * 2 + 1))
    np.testing.assert_allclose(out.mean(-1), partners.mean(-1), atol=1e-5)
    np.testing.assert_allclose(out.std(-1), partners.std(-1), rtol=1e-2, atol=1e-2)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)
    scale = np.sqrt(partners.var(-1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        out, normal * scale + partners.mean(-1, keepdims=True), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_labels_are_mixed_as_the_images_are(name):
    mixed = _mixed(_config(name, alpha=1.0))
    assert mixed.feature_hook is None
    np.testing.assert_allclose(mixed.labels.sum(1), 1.0, rtol=1e-6)
    own = np.asarray(jax.nn.one_hot(LABELS, 4))
    share = mixed.labels[1, 1]  # of the example with label 1, whose partner has label 0
    np.testing.assert_allclose(mixed.labels, share * own + (1 - share) * own[::-1], atol=1e-6)
    assert np.abs(mixed.images - IMAGES).max() > 0


def test_moment_exchange_edits_one_place_of_the_student():
    mixed = _mixed(_config("moex", place="stage2", moex_lam=0.7))
    np.testing.assert_array_equal(mixed.images, IMAGES)
    np.testing.assert_array_equal(mixed.feature_hook("stage1", IMAGES), IMAGES)
    expected = mixing.exchange_moments(IMAGES, IMAGES[::-1])
    np.testing.assert_array_equal(mixed.feature_hook("stage2", IMAGES), expected)
    np.testing.assert_allclose(mixed.labels[1], [0.3, 0.7, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "moex"])
def test_a_batch_is_mixed_with_the_probability(name):
    own = jax.nn.one_hot(LABELS, 4)
    never = _mixed(_config(name, probability=0.0))
    np.testing.assert_array_equal(never.labels, own)
    np.testing.assert_array_equal(never.images, IMAGES)
    if name == "moex":
        np.testing.assert_array_equal(never.feature_hook("stem", IMAGES), IMAGES)
    config = _config(name, probability=0.3, alpha=1.0)
    count = sum(bool(jnp.any(_mixed(config, seed).labels != own)) for seed in range(60))
    assert 8 <= count <= 30


@pytest.mark.parametrize("name", ["mixup", "cutmix", "moex"])
def test_partners_do_not_depend_on_the_number_of_devices(name):
    mixer = mixing.create_mix(_config(name, alpha=1.0), distributed.reverse_batch)
    batch = {"image": jax.random.normal(jax.random.key(1), (8, 6, 6, 3)), "label": np.arange(8) % 4}

    def step(key, batch):
        mixed = mixer(key, batch["image"], batch["label"], 4)
        edited = (
            mixed.images if mixed.feature_hook is None else mixed.feature_hook("stem", mixed.images)
        )
        return distributed.gather(edited), distributed.gather(mixed.labels)

    def on(devices):
        mesh = distributed.make_mesh(jax.devices()[:devices])
        mapped = distributed.shard_step(step, mesh, batch_argument=1)
        return mapped(jax.random.key(0), distributed.shard(batch, mesh))

    one = on(1)
    assert np.abs(one[0] - batch["image"]).max() > 0
    for devices in (2, 4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), on(devices), one)


def test_without_mixing_nothing_changes():
    mixed = _mixed(_config("none"))
    assert mixed.images is IMAGES
    assert mixed.labels is LABELS
    assert mixed.feature_hook is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "mixpu"}, "unknown mix 'mixpu'; did you mean mixup"),
        ({"name": "mixup", "alpha": 0.0}, "alpha must be above 0"),
        ({"name": "mixup", "probability": 1.5}, "probability must be between 0 and 1"),
        ({"name": "moex", "moex_lam": -0.5}, "moex_lam must be between 0 and 1"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=message):
        mixing.create_mix(_config(**values), _reverse)
