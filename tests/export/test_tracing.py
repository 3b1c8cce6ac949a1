"""Errors of a network that cannot be traced name its line and the likely cause."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amdjax.errors import UserError
from amdjax.export.formats import FORMATS
from amdjax.export.tracing import tracing


def _flatten(_: Any, images: Any) -> Any:
    return SimpleNamespace(logits=images.reshape(len(images), -1))


def _compare(_: Any, images: Any) -> Any:
    return SimpleNamespace(logits=images if images.shape[0] > 3 else -images)


def _fail(_: Any, images: Any) -> Any:
    raise KeyError("stage4")


@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
@pytest.mark.parametrize(
    ("predictor", "message", "has_hint"),
    [(_flatten, "TypeError", True), (_compare, "Inconclusive", True), (_fail, "KeyError", False)],
)
def test_graph_of_a_network_that_cannot_be_traced_names_its_line(
    predictor, message, has_hint, name, tmp_path
):
    if name == "onnx":
        pytest.importorskip("onnx", reason="onnx is not installed")
    network = SimpleNamespace(predictor=predictor, variables={})
    model: Any = SimpleNamespace(network=network, temperature=None)
    line = inspect.getsourcelines(predictor)[1] + 1
    place = re.escape(f"{Path(__file__).resolve()}, line {line}: ")
    with pytest.raises(UserError, match=f"{place}{message}") as caught:
        FORMATS[name].write(model, {"image_shape": [4, 4, 3]}, tmp_path / "file")
    assert ("use x.shape[0], not len(x)" in str(caught.value)) == has_hint
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_tracing_keeps_the_errors_of_users():
    with pytest.raises(UserError, match=r"^as it was$"), tracing("ONNX"):
        raise UserError("as it was")
