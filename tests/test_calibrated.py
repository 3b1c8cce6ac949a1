"""Calibration temperatures of trained networks."""

from types import SimpleNamespace

import numpy as np
import pytest

from amdjax import calibrated
from amdjax.analysis import fit_temperature, split_half
from amdjax.data import Dataset, InMemorySource


def _source(seed, examples):
    """Images whose first three values are the logits, times ten, of a class that is often wrong."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (examples, 1, 1, 3), dtype=np.uint8)
    guess = images[:, 0, 0].argmax(axis=1)
    labels = np.where(rng.random(examples) < 0.4, rng.integers(0, 3, examples), guess)
    return InMemorySource(images, labels.astype(np.int32))


def _logits(images):
    return images[:, 0, 0].astype(np.float32) / 10


@pytest.mark.parametrize("has_validation", [True, False])
def test_temperature_is_fitted_on_the_validation_split_if_there_is_one(has_validation, capsys):
    train, test, validation = (_source(seed, 70) for seed in range(3))
    held_out = validation if has_validation else None
    dataset = Dataset("random", ("a", "b", "c"), (1, 1, 3), train, test, validation=held_out)
    temperature = calibrated._fit(SimpleNamespace(name="kd", logits=_logits), dataset)
    source, rows = (validation, np.arange(70)) if has_validation else (test, split_half(70)[0])
    images, labels = source.read(rows)
    np.testing.assert_allclose(temperature, fit_temperature(_logits(images), labels), rtol=1e-6)
    words = "70 validation images" if has_validation else "35 test images"
    assert f"kd: fitting the temperature on {words} (once)" in capsys.readouterr().err
