"""Several teachers as one: the weighted mean of their logits."""

import flax.traverse_util
import jax
import numpy as np
import pytest

from amdjax.models import (
    Ensemble,
    create_model,
    join_variables,
    member_variables,
    variable_shapes,
)

NAMES, SHAPE = ("wrn_10_1", "resnet8"), (16, 16, 3)


def _ensemble(*weights):
    members = tuple(create_model(name, 4) for name in NAMES)
    return Ensemble(members=members, weights=weights, num_classes=4)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)

    def draw(name):
        shapes = variable_shapes(create_model(name, 4), SHAPE)
        leaves = {path: rng.uniform(0.1, 0.2, leaf.shape) for path, leaf in shapes.items()}
        return flax.traverse_util.unflatten_dict(leaves, sep="/")

    return [draw(name) for name in NAMES]


def test_ensemble_has_the_weighted_mean_of_the_logits(variables):
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    first, second = (
        create_model(name, 4).apply(one, images).logits
        for name, one in zip(NAMES, variables, strict=True)
    )
    outputs = _ensemble(0.25, 0.75).apply(join_variables(variables), images)
    np.testing.assert_allclose(outputs.logits, 0.25 * first + 0.75 * second, rtol=1e-5, atol=1e-6)
    assert outputs.features == {}
    assert outputs.embedding is None
    assert outputs.class_weights is None


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
