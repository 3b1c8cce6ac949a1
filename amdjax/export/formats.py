"""The formats: how each is written, read back and loaded by its user."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import flax.traverse_util
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import scipy.special

from amdjax.calibrated import CalibratedModel
from amdjax.errors import UserError
from amdjax.export.student import INPUT, OUTPUT, Metadata, as_function, predictor_of
from amdjax.export.torch_weights import to_torch_state_dict
from amdjax.export.tracing import tracing
from amdjax.models import import_torch_state_dict
from amdjax.predictor import forward

PLATFORMS = ("cpu", "cuda", "tpu")
# Images, uint8 RGB [B,H,W,3] -> probabilities, float32 [B,C].
Classify = Callable[[np.ndarray], np.ndarray]


class Format(NamedTuple):
    """A format of `FORMATS`.

    Attributes:
      suffixes: of its files, with the packages that each needs beside those of amdjax.
      summary: what is in a file, for `--help` and the model card.
      write: (model, metadata, file) -> what the format adds to the metadata.
      read: (file, metadata) -> function of images.
      usage: (file name, metadata) -> three lines of Python that compute `probabilities` of `images`
        (PyTorch: `logits`).
      has_graph: whether a file holds the computation too, for batches of any size.
    """

    suffixes: Mapping[str, tuple[str, ...]]
    summary: str
    write: Callable[[CalibratedModel, Metadata, Path], Metadata]
    read: Callable[[Path, Metadata], Classify]
    usage: Callable[[str, Metadata], str]
    has_graph: bool = False


def load_export(file: str | Path) -> Classify:
    """Reads an exported network of any format.

    Args:
      file: that `amdjax.export` wrote, with its metadata `FILE.json` beside it.

    Returns:
      A function: images, uint8 RGB [B,H,W,3] of the size in the metadata -> probabilities, float32
      [B,C]. It raises `UserError` on other images.

    Raises:
      UserError: if a file is missing, a package that the format needs, or the registration of the
        network or of the loss that defines its prediction.
    """
    path = Path(file)
    sidecar = metadata_file(path)
    for needed in (path, sidecar):
        if not needed.is_file():
            raise UserError(f"{needed} is missing; an export is a file and its .json beside it")
    metadata = json.loads(sidecar.read_text())
    require(metadata["format"], path.suffix)
    classify = FORMATS[metadata["format"]].read(path, metadata)
    shape = tuple(metadata["image_shape"])

    def checked(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UserError(
                f"images must be uint8 [B,{','.join(map(str, shape))}] of values from 0 to 255, "
                f"not {images.dtype} {list(images.shape)}"
            )
        return classify(images)

    return checked


def metadata_file(file: Path) -> Path:
    """Returns the file with the metadata of an exported file."""
    return file.with_name(file.name + ".json")


def require(name: str, suffix: str) -> None:
    """Makes sure that the packages of a format are installed.

    Args:
      name: of the format.
      suffix: of the file.

    Raises:
      UserError: saying what to install.
    """
    suffixes = FORMATS[name].suffixes
    if all(importlib.util.find_spec(module) for module in suffixes[suffix]):
        return
    others = [other for other, modules in suffixes.items() if not modules]
    choice = f", or choose a file that ends in {others[0]}" if others else ""
    raise UserError(
        f"the format {name} ({suffix}) needs {' and '.join(suffixes[suffix])}: pip install "
        f"{' '.join(suffixes[suffix])}{choice}"
    )


def _write_onnx(model: CalibratedModel, metadata: Metadata, file: Path) -> Metadata:
    import onnx

    from amdjax.export.onnx_graph import OPSET, to_onnx

    added = {"opset": OPSET}
    properties = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in (metadata | added).items()
    }
    argument = jax.ShapeDtypeStruct((1, *metadata["image_shape"]), jnp.uint8)
    with tracing("ONNX"):
        proto = to_onnx(as_function(model), argument, INPUT, OUTPUT, properties)
    onnx.save(proto, file)
    return added


def _read_onnx(file: Path, _: Metadata) -> Classify:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _write_stablehlo(model: CalibratedModel, metadata: Metadata, file: Path) -> Metadata:
    (batch,) = jax.export.symbolic_shape("batch")
    argument = jax.ShapeDtypeStruct((batch, *metadata["image_shape"]), jnp.uint8)
    with tracing("StableHLO"):
        exported = jax.export.export(jax.jit(as_function(model)), platforms=PLATFORMS)(argument)
    file.write_bytes(exported.serialize())
    return {"platforms": list(PLATFORMS)}


def _read_stablehlo(file: Path, _: Metadata) -> Classify:
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    call = jax.jit(exported.call)
    return lambda images: np.asarray(call(images))


def _write_safetensors(model: CalibratedModel, metadata: Metadata, file: Path) -> Metadata:
    _save_safetensors(_flat(model.network.variables), metadata, file)
    return {}


def _save_safetensors(arrays: dict[str, np.ndarray], metadata: Metadata, file: Path) -> None:
    from safetensors.numpy import save

    file.write_bytes(save(arrays, {"amdjax": json.dumps(metadata)}))


def _read_safetensors(file: Path, metadata: Metadata) -> Classify:
    from safetensors.numpy import load_file

    return _classify(flax.traverse_util.unflatten_dict(load_file(file), sep="/"), metadata)


def _write_flax(model: CalibratedModel, _: Metadata, file: Path) -> Metadata:
    variables = jax.tree.map(np.asarray, model.network.variables)
    file.write_bytes(flax.serialization.msgpack_serialize(variables))
    return {}


def _read_flax(file: Path, metadata: Metadata) -> Classify:
    return _classify(flax.serialization.msgpack_restore(file.read_bytes()), metadata)


def _write_torch(model: CalibratedModel, metadata: Metadata, file: Path) -> Metadata:
    if unknown := model.network.variables.keys() - {"params", "batch_stats"}:
        raise UserError(
            f"the predictions of {metadata['method']} need variables ({', '.join(unknown)}) that "
            "the published PyTorch definition does not have; choose another format"
        )
    state_dict = to_torch_state_dict(metadata["model"], model.network.variables)
    if file.suffix == ".safetensors":
        _save_safetensors(state_dict, metadata, file)
    else:
        import torch

        torch.save({key: torch.from_numpy(array) for key, array in state_dict.items()}, file)
    return {}


def _read_torch(file: Path, metadata: Metadata) -> Classify:
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        state_dict = load_file(file)
    else:
        import torch

        tensors = torch.load(file, map_location="cpu", weights_only=True)
        state_dict = {key: tensor.numpy() for key, tensor in tensors.items()}
    return _classify(import_torch_state_dict(metadata["model"], state_dict), metadata)


def _flat(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    return {path: np.asarray(leaf) for path, leaf in flat.items()}


def _classify(variables: dict[str, Any], metadata: Metadata) -> Classify:
    predictor = predictor_of(metadata)
    temperature = np.float32(metadata["temperature"])

    def classify(images: np.ndarray) -> np.ndarray:
        logits = np.asarray(forward(predictor, variables, images))
        return scipy.special.softmax(logits / temperature, axis=1)

    return classify


def _onnx_usage(name: str, _: Metadata) -> str:
    return f"""\
import onnxruntime
student = onnxruntime.InferenceSession("{name}")
probabilities = student.run(None, {{"{INPUT}": images}})[0]
"""


def _stablehlo_usage(name: str, _: Metadata) -> str:
    return f"""\
import pathlib, jax.export  # also needs the package flatbuffers
student = jax.export.deserialize(bytearray(pathlib.Path("{name}").read_bytes()))
probabilities = student.call(images)
"""


def _amdjax_usage(name: str, _: Metadata) -> str:
    return f"""\
from amdjax.export import load_export
student = load_export("{name}")
probabilities = student(images)
"""


def _torch_usage(name: str, metadata: Metadata) -> str:
    module, load = "torch", f'torch.load("{name}", weights_only=True)'
    if name.endswith(".safetensors"):
        module = "safetensors.torch, torch"
        load = f'safetensors.torch.load_file("{name}")'
    mean, std = (f"torch.tensor({metadata[key]})" for key in ("mean", "std"))
    scaled = f" / {metadata['temperature']}" if metadata["temperature"] != 1 else ""
    return f"""\
import {module}
network.load_state_dict({load})
inputs = (images / 255 - {mean}) / {std}
logits = network.eval()(inputs.permute(0, 3, 1, 2)){scaled}
"""


FORMATS = {
    "onnx": Format(
        {".onnx": ("onnx", "onnxruntime")},
        "graph and weights, for onnxruntime",
        _write_onnx,
        _read_onnx,
        _onnx_usage,
        has_graph=True,
    ),
    "torch": Format(
        {".pth": ("torch",), ".pt": ("torch",), ".safetensors": ()},
        "state dict with the names of the published PyTorch definition",
        _write_torch,
        _read_torch,
        _torch_usage,
    ),
    "stablehlo": Format(
        {".stablehlo": ("flatbuffers",)},
        f"graph and weights, for JAX on {', '.join(PLATFORMS)}",
        _write_stablehlo,
        _read_stablehlo,
        _stablehlo_usage,
        has_graph=True,
    ),
    "safetensors": Format(
        {".safetensors": ()},
        "Flax variables by path",
        _write_safetensors,
        _read_safetensors,
        _amdjax_usage,
    ),
    "flax": Format(
        {".msgpack": ()},
        "Flax variables, as flax.serialization writes them",
        _write_flax,
        _read_flax,
        _amdjax_usage,
    ),
}
