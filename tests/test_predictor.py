"""Prediction rules of networks: `amdjax.predictor`."""

import jax
import numpy as np
import pytest

from amdjax.configs import default
from amdjax.losses import LOSSES, LossSpec, build_objective
from amdjax.models import create_model, init_variables
from amdjax.predictor import create_predictor, forward, predicting_losses
from tests.registries import temporary_registrations

SHAPE = (8, 8, 3)
MODEL = create_model("resnet8", num_classes=3)


@pytest.fixture
def register_scaled():
    """Registers a loss "scaled", which multiplies the logits, under the same name each time."""

    def register(factor):
        LOSSES["scaled"] = LossSpec(
            lambda logits, labels, layers=(): logits[:, 0],
            inputs=("student.logits", "labels"),
            logits_fn=lambda outputs, settings: factor * outputs.logits,
        )

    with temporary_registrations():
        yield register


def _predictor(losses):
    return create_predictor(MODEL, default.get_config().augment, losses)


def test_predictor_follows_a_loss_that_is_registered_again(register_scaled):
    variables = init_variables(MODEL, jax.random.key(0), SHAPE)
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, *SHAPE)
    logits = []
    for factor in (1.0, 5.0):
        register_scaled(factor)
        logits.append(forward(_predictor({"scaled": {}}), variables, images))
    np.testing.assert_allclose(logits[1], 5.0 * logits[0], rtol=1e-5)


def test_predictors_of_one_definition_share_a_program(register_scaled):
    register_scaled(2.0)
    # A config has tuples where a run's description, which is JSON, has lists.
    first, second = (
        _predictor({"scaled": {"layers": (1, 2)}}),
        _predictor({"scaled": {"layers": [1, 2]}}),
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first != _predictor({"scaled": {"layers": (1,)}})


@pytest.mark.parametrize("settings", [{}, {"weight": 0.0, "end_fraction": 0.5, "end_weight": 1.0}])
def test_a_loss_that_is_computed_at_any_time_predicts(settings):
    losses = {"ce": {}, "cosface": settings}
    assert predicting_losses(losses) == ["cosface"]
    assert [term.name for term in build_objective(losses).terms] == ["ce", "cosface"]
    unused = {"ce": {}, "cosface": {"weight": 0.0, "end_weight": 1.0}}
    assert predicting_losses(unused) == []
    assert [term.name for term in build_objective(unused).terms] == ["ce"]
