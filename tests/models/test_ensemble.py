"""Several teachers as one: mean logits, joined features and embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.losses import LossInputs, build_objective
from amdjax.losses.functional import attention_map
from amdjax.models import (
    Ensemble,
    Outputs,
    create_model,
    join_variables,
    map_sizes,
    member_variables,
    variable_shapes,
)
from tests.export.random_variables import draw_variables

NAMES, SHAPE = ("wrn_10_2", "resnet8"), (16, 16, 3)  # of different widths
WEIGHTS = (0.99, 0.01)
STAGES = ("stage1", "stage2", "stage3")


def _ensemble(*weights, names=NAMES, dtype=jnp.float32):
    members = tuple(create_model(name, 4, dtype) for name in names)
    return Ensemble(members=members, weights=weights, num_classes=4)


@pytest.fixture(scope="module")
def variables():
    return [draw_variables(create_model(name, 4), SHAPE[0]) for name in NAMES]


@pytest.fixture(scope="module")
def outputs(variables):
    """Outputs for three images: of each network, and of the ensemble."""
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    networks = [
        create_model(name, 4).apply(one, images) for name, one in zip(NAMES, variables, strict=True)
    ]
    return networks, _ensemble(*WEIGHTS).apply(join_variables(variables), images)


def _flat(x):
    return np.asarray(x, np.float64).reshape(len(x), -1)


def _gram(x):
    return _flat(x) @ _flat(x).T


def _squared_distances(x):
    return np.sum((_flat(x)[:, None] - _flat(x)[None]) ** 2, axis=-1)


def _weighted_sum(first, second):
    return WEIGHTS[0] * first + WEIGHTS[1] * second


def test_ensemble_has_the_weighted_mean_of_the_logits(outputs):
    networks, joined = outputs
    expected = _weighted_sum(*(one.logits for one in networks))
    np.testing.assert_allclose(joined.logits, expected, rtol=1e-5, atol=1e-6)
    assert joined.class_weights is None


@pytest.mark.parametrize("statistic", [_gram, _squared_distances])
@pytest.mark.parametrize("output", [*STAGES, "final", "embedding"])
def test_joined_outputs_have_weighted_sums_of_products_and_distances(outputs, output, statistic):
    def select(one):
        return one.embedding if output == "embedding" else one.features[output]

    networks, joined = outputs
    expected = _weighted_sum(*(statistic(select(one)) for one in networks))
    np.testing.assert_allclose(statistic(select(joined)), expected, rtol=1e-5)


@pytest.mark.parametrize("layer", STAGES)
def test_joined_features_have_the_weighted_sum_of_the_attention_maps(outputs, layer):
    networks, joined = outputs
    expected = _weighted_sum(*(attention_map(one.features[layer]) for one in networks))
    np.testing.assert_allclose(attention_map(joined.features[layer]), expected, rtol=1e-5)


def test_embedding_of_an_ensemble_is_the_mean_of_its_final_map(outputs):
    _, joined = outputs
    mean = joined.features["final"].mean(axis=(1, 2))
    np.testing.assert_allclose(joined.embedding, mean, rtol=1e-5, atol=1e-6)


def test_sp_compares_the_student_with_the_merged_similarities_of_the_teachers(outputs):
    networks, joined = outputs
    rng = np.random.default_rng(1)
    maps = {layer: rng.normal(size=(3, 8, 8, 5)).astype(np.float32) for layer in STAGES}
    embedding = np.zeros((3, 5), np.float32)
    student = Outputs(logits=joined.logits, features=maps, embedding=embedding)
    labels, step = jnp.zeros(3, jnp.int32), jnp.zeros((), jnp.int32)
    inputs = LossInputs(student, joined, labels, step, gather=lambda x: x)
    total, _, _ = build_objective({"sp": {}}).apply({"params": {}, "state": {}}, inputs)

    def rows(gram):
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    distances = [
        np.sum(
            (
                rows(_gram(maps[layer]))
                - rows(_weighted_sum(*(_gram(one.features[layer]) for one in networks)))
            )
            ** 2
        )
        / 3**2
        for layer in STAGES
    ]
    np.testing.assert_allclose(total, 3000 * np.mean(distances), rtol=1e-5)


def test_ensemble_leaves_out_features_that_its_members_do_not_share():
    def features(*names):
        ensemble = _ensemble(0.5, 0.5, names=names, dtype=jnp.bfloat16)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        shapes, _ = jax.eval_shape(ensemble.init_with_output, jax.random.key(0), images)
        return {layer: (x.shape[1:], x.dtype) for layer, x in shapes.features.items()}

    assert features("resnet8", "vgg8") == {
        "stem": ((32, 32, 16 + 64), jnp.bfloat16),
        "stage1": ((32, 32, 16 + 64), jnp.bfloat16),
        "stage2": ((16, 16, 32 + 128), jnp.bfloat16),
        "stage3": ((8, 8, 64 + 256), jnp.bfloat16),
    }
    assert features("resnet8", "mobilenet_v2_half") == {}


def test_map_sizes_of_a_layer_by_member():
    maps = [
        {"a": np.zeros((2, 8, 4, 3)), "b": np.zeros((2, 4, 4, 3))},
        {"a": np.zeros((2, 8, 4, 1))},
    ]
    members = [Outputs(logits=None, features=features, embedding=None) for features in maps]
    assert map_sizes(members, "a") == ((8, 4), (8, 4))
    assert map_sizes(members, "b") == ((4, 4), None)


def test_ensemble_refuses_a_feature_hook(variables):
    images = np.zeros((1, *SHAPE), np.float32)
    with pytest.raises(UserError, match="an ensemble has no Grad-CAM"):
        _ensemble(*WEIGHTS).apply(
            join_variables(variables), images, feature_hook=lambda layer, x: x
        )


def test_join_variables_gives_what_the_ensemble_reads(variables):
    joined = join_variables(variables)
    shapes = {
        path: leaf.shape for path, leaf in variable_shapes(_ensemble(0.5, 0.5), SHAPE).items()
    }
    paths = jax.tree_util.tree_leaves_with_path(joined)
    given = {"/".join(key.key for key in path): leaf.shape for path, leaf in paths}
    assert given == shapes
    for index, one in enumerate(variables):
        jax.tree.map(np.testing.assert_array_equal, member_variables(joined, index), one)


def test_ensembles_of_equal_definition_are_compiled_once():
    assert _ensemble(0.5, 0.5) == _ensemble(0.5, 0.5)
    assert hash(_ensemble(0.5, 0.5)) == hash(_ensemble(0.5, 0.5))
    assert _ensemble(0.5, 0.5) != _ensemble(0.25, 0.75)
