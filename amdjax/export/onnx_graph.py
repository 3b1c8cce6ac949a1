"""ONNX graphs of JAX functions: a walk over the jaxpr that writes a node or two for each operation.

Batch norm is folded: constants are computed here, and a scale or an offset of the channels after a
convolution becomes part of its kernel and bias. Convolutions and pooling of ONNX have the channels
first; what lies between them is computed in that order too, so that a graph has about one transpose
in all.

Of the library jax2onnx, version 0.17.1 requires orbax-checkpoint before 0.11.37, and amdjax 0.12.8
or later, so that both cannot be installed together.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np
import onnx
from jax.extend import core
from onnx import helper, numpy_helper

from amdjax.errors import UserError, error_summary

OPSET = 17  # that of onnxruntime 1.12 and later
_IR_VERSION = 8  # of the files of that opset
_Shape = tuple[Any, ...]  # of ints and of the symbolic size of the batch


def to_onnx(
    function: Callable[[jax.Array], jax.Array],
    argument: jax.ShapeDtypeStruct,
    input_name: str,
    output_name: str,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Converts a function of one array to an ONNX model.

    Args:
      function: of an array whose first axis is the batch, as are the result's.
      argument: shape and dtype of the array; the first size is ignored: it is any number.
      input_name: of the model's input.
      output_name: of the model's output.
      metadata: entries of `metadata_props`.

    Returns:
      A model that `onnx.checker` accepts; axis 0 of input and output is called "batch".

    Raises:
      UserError: if the function has an operation that this module does not know; it is named. To
        be called inside `tracing`, which turns other errors of the function into this one.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    argument = jax.ShapeDtypeStruct((batch, *argument.shape[1:]), argument.dtype)
    closed = jax.make_jaxpr(function)(argument)
    graph = _Graph()
    tensor = _Tensor(input_name, tuple(range(len(argument.shape))), argument.shape)
    (value,) = graph.walk(closed.jaxpr, closed.consts, [tensor])
    (result,) = closed.out_avals
    graph.write("Identity", [graph.canonical(value, result)], output_name)
    proto = helper.make_graph(
        graph.nodes,
        "amdjax",
        [_value_info(input_name, argument)],
        [_value_info(output_name, result)],
        graph.initializers,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="amdjax",
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model


def _value_info(name: str, array: Any) -> onnx.ValueInfoProto:
    shape = ["batch", *array.shape[1:]]
    return helper.make_tensor_value_info(name, _onnx_type(array.dtype), shape)


def _onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Tensor(NamedTuple):
    """A tensor of the graph that holds an array of the jaxpr.

    Attributes:
      name: in the graph.
      axes: axis i of the tensor is axis `axes[i]` of the array.
      shape: of the array, in its order of axes; 1 where it is still to be broadcast.
    """

    name: str
    axes: tuple[int, ...]
    shape: _Shape


@dataclasses.dataclass(frozen=True)
class _Convolution:
    """A convolution that is not written yet, since a scale or an offset may follow.

    Attributes:
      x: name of its input, channels first.
      kernel: float32 [O,I,...].
      bias: float32 [O].
      attributes: of the node.
      axes: see `_Tensor`.
      shape: see `_Tensor`.
    """

    x: str
    kernel: np.ndarray
    bias: np.ndarray
    attributes: dict[str, Any]
    axes: tuple[int, ...]
    shape: _Shape

    def per_channel(self, value: Any) -> np.ndarray | None:
        """Returns a constant as [O] or [1] if it is a number or has one for each channel."""
        if not isinstance(value, np.ndarray):
            return None
        sizes = [1] * len(self.shape)
        sizes[self.axes[1]] = len(self.bias)
        return value.reshape(-1) if value.size == 1 or list(value.shape) == sizes else None


_Value = np.ndarray | _Tensor | _Convolution

# Operations of one array or of several equal shapes that ONNX has too.
_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
# Those that ONNX has with an argument or as two operations.
_COMPOSED = (
    "convert_element_type",
    "erfc",
    "expm1",
    "integer_pow",
    "log1p",
    "ne",
    "rsqrt",
    "select_n",
    "square",
)
# Operations that apply a jaxpr once, by the name of the parameter that holds it.
_CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
}


class _Graph:
    """The nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple, str] = {}
        self._numbers = itertools.count()

    def write(
        self, op: str, inputs: Sequence[str], *outputs: str, count: int = 1, **attributes: Any
    ) -> list[str]:
        """Adds a node, and returns the names of its outputs."""
        number = next(self._numbers)
        names = list(outputs) or [f"{op.lower()}_{number}.{i}" for i in range(count)]
        self.nodes.append(
            helper.make_node(op, inputs, names, name=f"{op.lower()}_{number}", **attributes)
        )
        return names

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self._constants[key]

    def walk(
        self, jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[_Value]
    ) -> list[_Value]:
        """Writes the operations of a jaxpr, and returns the values of its outputs."""
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= zip(jaxpr.constvars, map(np.asarray, constants), strict=True)
        atoms = [atom for equation in jaxpr.eqns for atom in equation.invars]
        uses = collections.Counter(
            atom for atom in (*atoms, *jaxpr.outvars) if not isinstance(atom, core.Literal)
        )

        def read(atom: Any) -> _Value:
            return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            try:
                results = self._apply(equation, inputs)
            except UserError:
                raise
            except Exception as error:  # a form of the operation that no writer expects
                raise _unsupported(equation.primitive.name, f" ({error_summary(error)})") from error
            for variable, result in zip(equation.outvars, results, strict=True):
                # What follows can be folded into a convolution only if nothing else reads it.
                values[variable] = result if uses[variable] == 1 else self._written(result)
        return [self._written(read(atom)) for atom in jaxpr.outvars]

    def canonical(self, value: _Value, array: Any) -> str:
        """Returns the name of a tensor with the array's order of axes and whole shape."""
        return self._arranged(self._whole(value, array), tuple(range(len(array.shape))))

    def _apply(self, equation: Any, inputs: list[_Value]) -> list[_Value]:
        name, parameters = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = parameters[_CALLS[name]]
            if not isinstance(inner, core.ClosedJaxpr):  # that of a checkpoint
                inner = core.ClosedJaxpr(inner, ())
            arguments = [self._written(value) for value in inputs]
            return self.walk(inner.jaxpr, inner.consts, arguments)
        if name in ("stop_gradient", "copy", "copy_p", "optimization_barrier"):
            return inputs
        if name == "dim_as_value":
            raise _unsupported(name, ", the size of the batch as a number,")
        arrays = [atom.aval for atom in equation.invars]
        if name == "broadcast_in_dim":
            return [self._broadcast(self._written(inputs[0]), **parameters)]
        if all(isinstance(value, np.ndarray) for value in inputs):
            return _computed(equation, inputs)
        if name in ("mul", "add") and (folded := _fold(name, inputs)) is not None:
            return [folded]
        written = [self._written(value) for value in inputs]
        if name in ("and", "not", "or", "select_n") and arrays[0].dtype != bool:
            raise _unsupported(name, f" of {arrays[0].dtype}")
        if name in _ELEMENTWISE or name in _COMPOSED:
            return [self._elementwise(name, written, parameters)]
        writer = getattr(self, f"_write_{name}", None)
        if writer is None:
            raise _unsupported(name)
        whole = [self._whole(value, array) for value, array in zip(written, arrays, strict=True)]
        results = writer(*whole, result=equation.outvars[0].aval, **parameters)
        return results if isinstance(results, list) else [results]

    def _written(self, value: _Value) -> np.ndarray | _Tensor:
        """Writes a convolution that has not been written."""
        if not isinstance(value, _Convolution):
            return value
        inputs = [value.x, self.constant(value.kernel)]
        if value.bias.any():
            inputs.append(self.constant(value.bias))
        (name,) = self.write("Conv", inputs, **value.attributes)
        return _Tensor(name, value.axes, value.shape)

    def _whole(self, value: _Value, array: Any) -> np.ndarray | _Tensor:
        """Makes sure that an array has its shape in full: only arithmetic broadcasts by itself."""
        value, shape = self._written(value), tuple(array.shape)
        if isinstance(value, np.ndarray) and all(isinstance(size, int) for size in shape):
            return np.broadcast_to(value, shape)
        if value.shape != shape:
            raise _unsupported("broadcast_in_dim", f" of {value.shape} to {shape}")
        return value

    def _arranged(self, value: np.ndarray | _Tensor, axes: tuple[int, ...]) -> str:
        """Returns the name of a tensor whose axis i is axis `axes[i]` of an array."""
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(axes) if value.ndim else value)
        if value.axes == axes:
            return value.name
        order = [value.axes.index(axis) for axis in axes]
        return self.write("Transpose", [value.name], perm=order)[0]

    def _elementwise(
        self, name: str, inputs: list[np.ndarray | _Tensor], parameters: Mapping[str, Any]
    ) -> _Tensor:
        tensors = [value for value in inputs if isinstance(value, _Tensor)]
        first = max(tensors, key=lambda value: len(value.axes))  # others may be single numbers
        shapes = [value.shape for value in inputs if value.shape]
        # Of the sizes of an axis, all but one are 1; a symbolic size is not 1.
        shape = tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*shapes, strict=True))

        def write(op: str, *operands: str, **attributes: Any) -> _Tensor:
            return _Tensor(self.write(op, operands, **attributes)[0], first.axes, shape)

        last = inputs[-1] if isinstance(inputs[-1], np.ndarray) else None
        rectified = name == "max" and last is not None and not last.any()
        if rectified and last.dtype.kind == "f" and shape == first.shape:
            return write("Relu", first.name)
        names = [
            self._arranged(value, first.axes) if value.shape else self._arranged(value, ())
            for value in inputs
        ]
        if name == "min" and last is not None and not last.ndim:
            return write("Clip", names[0], "", names[1])
        if name in _ELEMENTWISE:
            return write(_ELEMENTWISE[name], *names)
        if name == "rsqrt":
            return write("Reciprocal", write("Sqrt", *names).name)
        one = self.constant(np.ones((), np.float32)) if name in ("erfc", "expm1", "log1p") else ""
        if name == "erfc":
            return write("Sub", one, write("Erf", *names).name)
        if name == "expm1":
            return write("Sub", write("Exp", *names).name, one)
        if name == "log1p":
            return write("Log", write("Add", *names, one).name)
        if name == "ne":
            return write("Not", write("Equal", *names).name)
        if name == "square":
            return write("Mul", *names, *names)
        if name == "integer_pow":
            exponent = np.asarray(parameters["y"], np.float32)
            return write("Pow", *names, self.constant(exponent))
        if name == "select_n":
            predicate, if_false, if_true = names
            return write("Where", predicate, if_true, if_false)
        return write("Cast", *names, to=_onnx_type(parameters["new_dtype"]))

    def _broadcast(
        self, value: np.ndarray | _Tensor, shape: _Shape, broadcast_dimensions: _Shape, **_: Any
    ) -> np.ndarray | _Tensor:
        """Adds axes of size 1; arithmetic stretches them to the size that they stand for."""
        sizes = [1] * len(shape)
        for axis, size in zip(broadcast_dimensions, value.shape, strict=True):
            sizes[axis] = size
        if isinstance(value, np.ndarray):
            return value.reshape(sizes)
        new = [axis for axis in range(len(shape)) if axis not in broadcast_dimensions]
        axes = (*(broadcast_dimensions[axis] for axis in value.axes), *new)
        name = value.name
        if new:
            positions = np.arange(len(value.axes), len(axes), dtype=np.int64)
            (name,) = self.write("Unsqueeze", [name, self.constant(positions)])
        return _Tensor(name, axes, tuple(sizes))

    def _write_conv_general_dilated(
        self,
        x: _Tensor,
        kernel: Any,
        *,
        result: Any,
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        lhs_dilation: Sequence[int],
        rhs_dilation: Sequence[int],
        dimension_numbers: Any,
        feature_group_count: int,
        batch_group_count: int,
        **_: Any,
    ) -> _Convolution:
        if (
            not isinstance(kernel, np.ndarray)
            or batch_group_count > 1
            or any(n > 1 for n in lhs_dilation)
        ):
            raise _unsupported("conv_general_dilated", ", transposed or of a computed kernel")
        kernel = kernel.transpose(dimension_numbers.rhs_spec)
        attributes = {
            "kernel_shape": kernel.shape[2:],
            "strides": window_strides,
            "pads": _pads(padding),
            "dilations": rhs_dilation,
            "group": feature_group_count,
        }
        return _Convolution(
            self._arranged(x, tuple(dimension_numbers.lhs_spec)),
            kernel,
            np.zeros(len(kernel), kernel.dtype),
            attributes,
            tuple(dimension_numbers.out_spec),
            tuple(result.shape),
        )

    def _write_dot_general(self, x: Any, y: Any, *, result: Any, dimension_numbers: Any, **_: Any):
        contracted, batch = dimension_numbers
        if (len(x.shape), len(y.shape)) != (2, 2) or any(batch) or len(contracted[0]) != 1:
            raise _unsupported("dot_general", ", other than a product of two matrices,")
        (ours,), (theirs,) = contracted
        names = [self._arranged(x, (1 - ours, ours)), self._arranged(y, (theirs, 1 - theirs))]
        return _Tensor(self.write("MatMul", names)[0], (0, 1), tuple(result.shape))

    def _write_reduce_sum(
        self, x: _Tensor, *, result: Any, axes: Sequence[int], **_: Any
    ) -> _Tensor:
        positions = np.asarray([x.axes.index(axis) for axis in axes], np.int64)
        inputs = [x.name, self.constant(positions)]
        return _reduced(x, axes, result, self.write("ReduceSum", inputs, keepdims=0)[0])

    def _write_reduce_max(
        self, x: _Tensor, *, result: Any, axes: Sequence[int], **_: Any
    ) -> _Tensor:
        positions = [x.axes.index(axis) for axis in axes]
        name = self.write("ReduceMax", [x.name], axes=positions, keepdims=0)[0]
        return _reduced(x, axes, result, name)

    def _write_reduce_window_max(self, x: _Tensor, *, result: Any, **window: Any) -> _Tensor:
        return self._pool("MaxPool", x, result, window)

    def _write_reduce_window_sum(self, x: _Tensor, *, result: Any, **window: Any) -> _Tensor:
        mean = self._pool("AveragePool", x, result, window, count_include_pad=1)
        count = np.asarray(math.prod(window["window_dimensions"]), np.float32)
        return mean._replace(name=self.write("Mul", [mean.name, self.constant(count)])[0])

    def _pool(
        self, op: str, x: _Tensor, result: Any, window: dict[str, Any], **attributes: Any
    ) -> _Tensor:
        sizes = window["window_dimensions"]
        if (
            len(sizes) != 4
            or (sizes[0], sizes[3]) != (1, 1)
            or {*window["base_dilation"], *window["window_dilation"]} != {1}
        ):
            raise _unsupported(op, " other than of the height and width of [B,H,W,C]")
        axes = (0, 3, 1, 2)
        (name,) = self.write(
            op,
            [self._arranged(x, axes)],
            kernel_shape=sizes[1:3],
            strides=window["window_strides"][1:3],
            pads=_pads(window["padding"][1:3]),
            **attributes,
        )
        return _Tensor(name, axes, tuple(result.shape))

    def _write_concatenate(self, *inputs: Any, result: Any, dimension: int) -> _Tensor:
        axes = next(value.axes for value in inputs if isinstance(value, _Tensor))
        names = [self._arranged(value, axes) for value in inputs]
        (name,) = self.write("Concat", names, axis=axes.index(dimension))
        return _Tensor(name, axes, tuple(result.shape))

    def _write_split(
        self, x: _Tensor, *, result: Any, sizes: Sequence[int], axis: int
    ) -> list[_Tensor]:
        inputs = [x.name, self.constant(np.asarray(sizes, np.int64))]
        names = self.write("Split", inputs, count=len(sizes), axis=x.axes.index(axis))
        return [
            x._replace(name=name, shape=(*x.shape[:axis], size, *x.shape[axis + 1 :]))
            for name, size in zip(names, sizes, strict=True)
        ]

    def _write_slice(
        self, x: _Tensor, *, result: Any, start_indices: _Shape, limit_indices: _Shape, strides: Any
    ) -> _Tensor:
        steps = strides or [1] * len(x.shape)
        cut = [
            (start, limit, x.axes.index(axis), step)
            for axis, (start, limit, step) in enumerate(
                zip(start_indices, limit_indices, steps, strict=True)
            )
            if (start, limit, step) != (0, x.shape[axis], 1)
        ]
        inputs = [self.constant(np.asarray(column, np.int64)) for column in zip(*cut, strict=True)]
        return x._replace(name=self.write("Slice", [x.name, *inputs])[0], shape=tuple(result.shape))

    def _write_transpose(self, x: _Tensor, *, result: Any, permutation: Sequence[int]) -> _Tensor:
        axes = tuple(list(permutation).index(axis) for axis in x.axes)
        return _Tensor(x.name, axes, tuple(result.shape))

    def _write_squeeze(self, x: _Tensor, *, result: Any, **_: Any) -> _Tensor:
        return self._write_reshape(x, result=result)

    def _write_reshape(self, x: _Tensor, *, result: Any, **_: Any) -> _Tensor:
        """Merges and splits axes, in the tensor's order of axes where that is possible."""
        groups = _axis_groups(x.shape, tuple(result.shape))
        groups.sort(key=lambda group: min(map(x.axes.index, group[0])))
        source = self._arranged(x, tuple(axis for before, _ in groups for axis in before))
        axes = tuple(axis for _, after in groups for axis in after)
        sizes = [result.shape[axis] for axis in axes]
        shape = np.asarray([n if isinstance(n, int) else -1 for n in sizes], np.int64)
        (name,) = self.write("Reshape", [source, self.constant(shape)])
        return _Tensor(name, axes, tuple(result.shape))


def _computed(equation: Any, inputs: Sequence[Any]) -> list[_Value]:
    """Returns the results of an operation on constants, of which some are still to be broadcast."""
    primitive = equation.primitive
    arrays = [atom.aval for atom in equation.invars]
    sizes = [n for atom in (*equation.invars, *equation.outvars) for n in atom.aval.shape]
    if primitive.name in _ELEMENTWISE or primitive.name in _COMPOSED:
        inputs = np.broadcast_arrays(*inputs)  # not in full: a scale of the channels stays one
    elif all(isinstance(size, int) for size in sizes):
        inputs = [
            np.broadcast_to(value, array.shape) for value, array in zip(inputs, arrays, strict=True)
        ]
    else:
        raise _unsupported(primitive.name, " of the same constants for every image")
    results = primitive.bind(*inputs, **equation.params)
    return list(map(np.asarray, results if primitive.multiple_results else [results]))


def _fold(name: str, inputs: Sequence[_Value]) -> _Convolution | None:
    """Returns a convolution with a scale or an offset of its channels; None for other operands."""
    for convolution, other in itertools.permutations(inputs, 2):
        if isinstance(convolution, _Convolution):
            constant = convolution.per_channel(other)
            if constant is None:
                continue
            kernel = convolution.kernel
            if name == "add":
                return dataclasses.replace(convolution, bias=convolution.bias + constant)
            return dataclasses.replace(
                convolution,
                kernel=kernel * constant.reshape(-1, *[1] * (kernel.ndim - 1)),
                bias=convolution.bias * constant,
            )
    return None


def _reduced(x: _Tensor, removed: Sequence[int], result: Any, name: str) -> _Tensor:
    kept = [axis for axis in x.axes if axis not in removed]
    return _Tensor(name, tuple(sorted(kept).index(axis) for axis in kept), tuple(result.shape))


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in padding] + [high for _, high in padding]


def _axis_groups(before: _Shape, after: _Shape) -> list[tuple[list[int], list[int]]]:
    """Returns the groups of neighbouring axes that a reshape turns into each other."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        group, size, new_size = ([i], [j]), before[i], after[j]
        i, j = i + 1, j + 1
        while size != new_size:
            if not (isinstance(size, int) and isinstance(new_size, int)):
                raise _unsupported("reshape", " of the batch")
            if size < new_size:
                group[0].append(i)
                size, i = size * before[i], i + 1
            else:
                group[1].append(j)
                new_size, j = new_size * after[j], j + 1
        groups.append(group)
    if not groups:
        raise _unsupported("reshape", " of a single number")
    groups[-1][0].extend(range(i, len(before)))  # axes of size 1
    groups[-1][1].extend(range(j, len(after)))
    return groups


def _unsupported(name: str, detail: str = "") -> UserError:
    return UserError(
        f"the operation {name}{detail} of this network cannot be written as ONNX; "
        "--to=stablehlo takes every operation of JAX"
    )
