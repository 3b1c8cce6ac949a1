"""Every network as ONNX: how far the probabilities differ, how large the file is, and how fast.

By default one network is compared; AMDJAX_ALL_NETWORKS=1 takes all, at the size of their
images, and prints the table of docs/export.md. Its times are those of the processor, which other
programs on it change little; on one core no thread waits for another:

    AMDJAX_ALL_NETWORKS=1 taskset -c 0 python -m pytest -s tests/export/test_all_networks.py
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabulate import tabulate

from amdjax import cpu
from amdjax.configs import default
from amdjax.export.evaluate import seconds_per_call
from amdjax.export.run import TOLERANCE, random_images
from amdjax.models import MODELS, create_model
from amdjax.models.resnet import ImageNetResNet
from amdjax.predictor import create_predictor, forward
from tests.export.random_variables import draw_variables

pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from amdjax.export.onnx_graph import to_onnx  # noqa: E402

ALL = os.environ.get("AMDJAX_ALL_NETWORKS") == "1"
NAMES = tuple(MODELS) if ALL else ("resnet8",)
BATCH = 8


@pytest.fixture(scope="module")
def rows() -> Iterator[list[tuple]]:
    rows: list[tuple] = []
    yield rows
    if ALL:
        headers = ("network", "pixels", "difference", "MB", "amdjax, ms", "onnxruntime, ms")
        align = ("left", *("right",) * (len(headers) - 1))
        print("\n" + tabulate(rows, headers, "github", disable_numparse=True, colalign=align))


@pytest.mark.parametrize("name", NAMES)
def test_onnx_has_the_probabilities_of_a_network(name: str, rows: list[tuple], tmp_path: Path):
    model = create_model(name, 10)
    large = isinstance(model, ImageNetResNet) and not model.small_stem
    size = (224 if large else 32) if ALL else 16
    variables = draw_variables(model, size)
    predictor = create_predictor(model, default.get_config().augment, {})
    images = random_images(BATCH, (size, size, 3))
    logits = np.asarray(forward(predictor, variables, images))
    temperature = logits.std()  # the logits of random weights may be large, and hide differences

    def probabilities(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(predictor(variables, x).logits / temperature)

    with cpu.workarounds_disabled():
        argument = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
        graph = to_onnx(probabilities, argument, "images", "probabilities", {})
    data = graph.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = np.asarray(jax.nn.softmax(logits / temperature))
    actual = session.run(None, {"images": images})[0]
    difference = np.abs(actual - expected).max()
    assert difference < TOLERANCE
    assert expected.std() > 0.01
    if ALL:
        calls = (
            lambda: forward(predictor, variables, images).block_until_ready(),
            lambda: session.run(None, {"images": images}),
        )
        megabytes = f"{len(data) / 1e6:.2f}"
        times = (f"{1000 * seconds_per_call(call, time.process_time):.1f}" for call in calls)
        rows.append((name, str(size), f"{difference:.1e}", megabytes, *times))
