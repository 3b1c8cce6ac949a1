"""Shapes of networks' outputs, found without computing them."""

import types

import jax
import jax.numpy as jnp
import pytest

from amdjax.models import Model, Outputs, create_model
from amdjax.training.dummy_outputs import NotOutputs, dummy_inputs, dummy_outputs, output_shapes

SHAPE = (8, 8, 3)


def _network(returns, traced=()):
    """Returns the class of a network that returns what `returns(pixels [B,192])` returns."""

    class Mine(Model):
        def __call__(self, x, train=False, feature_hook=None):
            for calls in traced:
                calls.append(x.shape)
            return returns(x.reshape(len(x), -1))

    return Mine


def _outputs(x, **features):
    return Outputs(x[:, :4], features, x)


def test_output_shapes_are_those_of_the_outputs_in_the_order_of_the_layers():
    model = create_model("resnet8", 4, jnp.bfloat16)
    shapes = output_shapes(model, SHAPE)
    outputs = jax.eval_shape(lambda: dummy_outputs(model, SHAPE))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), outputs
    )
    assert list(shapes.features) == ["stem", "stage1", "stage2", "stage3", "final"]


def test_output_shapes_traces_networks_of_equal_definition_once():
    calls = []
    network = _network(_outputs, traced=(calls,))
    for _ in range(3):
        output_shapes(network(num_classes=4), SHAPE)
    assert calls == [(2, *SHAPE)]
    output_shapes(network(num_classes=5), SHAPE)
    output_shapes(network(num_classes=4), (4, 8, 3))
    assert len(calls) == 3
    # Another class, as after a network was registered again, is another network.
    other = _network(lambda x: _outputs(x, block=x))
    assert list(output_shapes(other(num_classes=4), SHAPE).features) == ["block"]


@pytest.mark.parametrize(
    "returned", [lambda x: (x, x), lambda x: object(), lambda x: Outputs(x, [x], x)]
)
def test_output_shapes_refuses_what_is_not_outputs_each_time(returned):
    model = _network(returned)(num_classes=4)
    for _ in range(2):
        with pytest.raises(NotOutputs):
            output_shapes(model, SHAPE)


def test_dummy_inputs_takes_outputs_and_shapes():
    network = _network(lambda x: Outputs(x, types.MappingProxyType({"b": x + 1, "a": x}), x))
    model = network(num_classes=4)
    outputs = dummy_outputs(model, SHAPE)
    inputs = dummy_inputs(outputs, output_shapes(model, SHAPE), num_examples=7)
    assert inputs.num_examples == 7
    assert list(inputs.teacher.features) == list(inputs.student.features) == ["b", "a"]
    assert inputs.student.features["b"].min() == 1.0
    assert inputs.teacher.features["b"].shape == (2, 192)
    assert not inputs.teacher.features["b"].any()
    assert dummy_inputs(outputs, None).teacher is None
