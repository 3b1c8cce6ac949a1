"""ONNX graphs compute what JAX computes, for batches of any size, in onnxruntime."""

import collections
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from amdjax import cpu
from amdjax.configs import default
from amdjax.errors import UserError
from amdjax.models import create_model
from amdjax.models.shufflenet import channel_shuffle
from amdjax.predictor import create_predictor, forward
from tests.export.random_variables import draw_variables
from tests.models.test_models import SMALL
from tests.registries import temporary_registrations
from tests.tiny_run import ROOT

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from amdjax.export.onnx_graph import to_onnx  # noqa: E402

RULES = ("a_softmax", "cosface", "arcface", "spherical_softmax", "taylor_softmax")


def _convert(function: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    with cpu.workarounds_disabled():
        return to_onnx(function, jax.ShapeDtypeStruct((1, *shape), dtype), "x", "y", {"k": "v"})


def _run(model: Any, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def _operations(model: Any) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def _check_network(model: Any, rule: str | None = None, size: int = 24) -> Any:
    variables = draw_variables(model, size)
    predictor = create_predictor(
        model, default.get_config().augment, {rule: {}} if rule is not None else {}
    )
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    graph = _convert(lambda x: predictor(variables, x).logits, images.shape[1:], np.uint8)
    expected = np.asarray(forward(predictor, variables, images))
    for batch in (images, images[:1]):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(_run(graph, batch), expected[: len(batch)], atol=1e-5 * scale)
    return graph


@pytest.mark.parametrize("name", SMALL)
def test_to_onnx_computes_every_family(name):
    graph = _check_network(SMALL[name])
    used = {tensor for node in graph.graph.node for tensor in node.input}
    assert {constant.name for constant in graph.graph.initializer} <= used


@pytest.mark.parametrize("rule", RULES)
def test_to_onnx_computes_the_prediction_rule_of_a_loss(rule):
    _check_network(SMALL["convnet"], rule, size=16)


def test_to_onnx_folds_batch_norm_into_convolutions():
    model = SMALL["resnet"]
    operations = _operations(_check_network(model))
    assert operations["Conv"] == 9
    # The additions of the three blocks and of the classifier; channels come first only once.
    assert (operations["Mul"], operations["Add"], operations["Transpose"]) == (0, 4, 1)


def _conv_twice(x):
    """A convolution whose output is read twice cannot take the scale."""
    y = jax.lax.conv_general_dilated(
        x, jnp.ones((3, 3, 4, 4)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y * 3.0 + y


def _channel_attention(x):
    pooled = nn.max_pool(x, (2, 2))
    return pooled * nn.sigmoid(pooled.mean((1, 2)))[:, None, None]


@jax.custom_vjp
def _doubled(x):
    return 2 * x


_doubled.defvjp(lambda x: (2 * x, None), lambda _, gradient: (2 * gradient,))


FUNCTIONS = {
    "checkpoint": jax.checkpoint(lambda x: jnp.tanh(x) + 1),
    "custom_vjp": lambda x: _doubled(x) + 1,
    "conv_twice": _conv_twice,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "hard_swish": nn.hard_swish,
    "leaky_relu": nn.leaky_relu,
    "log_softmax": jax.nn.log_softmax,
    "relu6": lambda x: nn.relu6(4 * x),
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": jnp.tanh,
    "avg_pool": lambda x: nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (0, 1))),
    "max_pool": lambda x: nn.max_pool(x, (2, 3), (1, 2), "SAME"),
    "pool_then_reduce": lambda x: nn.max_pool(x, (2, 2)).max((1, 3)),
    "shuffle": channel_shuffle,
    "shuffle_after_pool": lambda x: channel_shuffle(nn.max_pool(x, (2, 2))),
    "split": lambda x: jnp.concatenate(jnp.split(nn.max_pool(x, (2, 2)), 2, -1)[::-1], -1),
    "slice": lambda x: jax.lax.slice_in_dim(nn.max_pool(x, (2, 2)), 1, 4, 2, axis=2),
    "squeeze": lambda x: jnp.squeeze(x.mean(2, keepdims=True), 2),
    "flatten": lambda x: nn.max_pool(x, (2, 2)).reshape(x.shape[0], -1),
    "transpose": lambda x: jnp.swapaxes(nn.max_pool(x, (2, 2)), 1, 2),
    "channel_attention": lambda x: (
        nn.max_pool(x, (2, 2)) * nn.sigmoid(x.mean((1, 2)))[:, None, None]
    ),
    "concatenate_constant": lambda x: x + jnp.arange(4.0) - jnp.ones((6, 5, 1)),
    "where_scalar": lambda x: jnp.where(x.sum() < 1e9, x, 0.0),
    "where": lambda x: jnp.where(jnp.logical_and(x > 0.0, x < 1.0), x**3, -jnp.abs(x)),
    "matmul": lambda x: x.mean((1, 2)) @ jnp.ones((4, 3)),
    "constant_sum": lambda x: x * jnp.ones((5, 4)).sum(),
    "constant_matmul": lambda x: x.mean((1, 2)) @ (jnp.ones((4, 5)) @ jnp.arange(5.0)[:, None]),
    "constant_concatenate": lambda x: (
        x + jnp.concatenate([jnp.ones((5, 1)), jnp.zeros((5, 3))], -1)
    ),
    "constant_count": lambda x: nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False),
    "layer_norm": lambda x: nn.LayerNorm(use_bias=False).apply(
        {"params": {"scale": 1 + jnp.arange(4.0)}}, x
    ),
    "relu_broadcast": lambda x: jnp.maximum(
        x.mean(-1, keepdims=True), jnp.concatenate([jnp.zeros((5, 2))] * 2, -1)
    ).sum(-1),
    "max_of_uint8": lambda x: jnp.maximum((9 * jnp.abs(x)).astype(np.uint8), np.uint8(0)).astype(
        np.float32
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_to_onnx_computes_operations(name):
    x = np.random.default_rng(0).normal(size=(3, 6, 5, 4)).astype(np.float32)
    expected = np.asarray(FUNCTIONS[name](jnp.asarray(x)))
    actual = _run(_convert(FUNCTIONS[name], x.shape[1:]), x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_to_onnx_names_batch_and_metadata():
    model = _convert(nn.relu, (6, 5, 4))
    (given,), (result,) = model.graph.input, model.graph.output
    for tensor in (given, result):
        sizes = [size.dim_param or size.dim_value for size in tensor.type.tensor_type.shape.dim]
        assert sizes == ["batch", 6, 5, 4]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("k", "v")]
    assert model.producer_name == "amdjax"


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.sort(x, axis=-1), "sort"),
        (lambda x: x.reshape(-1, 4), "reshape of the batch"),
        (lambda x: x.sum(1) / jnp.ones_like(x).sum(1), "reduce_sum of the same constants"),
        (lambda x: x - x.mean(0), "dim_as_value, the size of the batch"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "dot_general, other than a product of two"),
        (lambda x: ~x.astype(np.uint8), "not of uint8"),
        (lambda x: jax.lax.select_n(x.astype(np.int32), x, x, x), "select_n of int32"),
        (lambda x: x[:, ::2, ::2], "gather"),
        (lambda x: jax.lax.argmax(x, 3, np.int32), "argmax"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y + 1, x), "scan"),
        (lambda x: jnp.broadcast_to(x.mean(1, keepdims=True), x.shape).sum(1), "broadcast"),
        (lambda x: jax.lax.conv_transpose(x, jnp.ones((2, 2, 4, 4)), (2, 2), "SAME"), "transposed"),
    ],
)
def test_to_onnx_names_what_it_cannot_write(function, operation):
    with pytest.raises(UserError, match=operation):
        _convert(function, (6, 5, 4))


def test_to_onnx_computes_the_network_of_the_documentation():
    text = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"^```python\n([^`]*?class Perceptron.*?)^```", text, re.DOTALL | re.M)
    with temporary_registrations():
        exec(code, {"__name__": "page"})
        _check_network(create_model("perceptron", 3), size=8)
