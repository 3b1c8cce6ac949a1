"""The speed of a function, and the function that is exported."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.calibrated import CalibratedModel
from amdjax.export.evaluate import seconds_per_call
from amdjax.export.student import as_function


def test_seconds_per_call_is_the_median_after_a_call_to_warm_up():
    seconds = iter([100.0, 1.0, 30.0, 2.0])
    now = 0.0

    def function() -> None:
        nonlocal now
        now += next(seconds)

    assert seconds_per_call(function, lambda: now) == 2.0
    assert next(seconds, None) is None


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_as_function_computes_the_probabilities_of_a_calibrated_network(temperature):
    def logits(images: Any) -> jax.Array:
        return jnp.mean(images, (1, 2)) / 20.0

    network: Any = SimpleNamespace(
        predictor=lambda variables, images: SimpleNamespace(logits=logits(images) + variables),
        variables=1.0,
        logits=lambda images: logits(images) + 1.0,
    )
    model = CalibratedModel(network, temperature)
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), np.uint8)
    probabilities = as_function(model)(images)
    np.testing.assert_allclose(probabilities, model.probabilities(images), atol=1e-6)
    expected = jax.nn.softmax(network.logits(images) / (temperature or 1.0))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
