"""Outputs of any Python callable for the images of a data set."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from amdjax.data import EvalBatches, ImageSource
from amdjax.errors import UserError, unknown_name
from amdjax.imports import import_modules
from amdjax.teacher_outputs.stored import ATTENTION

# Images, uint8 RGB [B,H,W,3] -> logits [B,C]; or a tuple (logits, embedding, features), of which
# the last may be left out; or a dictionary with these names.
Teacher = Callable[[np.ndarray], Any]
_ROUNDING = 0.01  # of the largest logit: what the rest of a batch may change by rounding
_NAMES = ("logits", "embedding", "features")
_RETURNS = (
    "it must return logits [B,C], a tuple (logits, embedding, features), or a dictionary with "
    f"{', '.join(map(repr, _NAMES))}"
)


def load_teacher_function(reference: str) -> Teacher:
    """Imports a callable.

    Args:
      reference: "module:function"; the module may lie in the current folder.

    Raises:
      UserError: if there is no such module, or it has no such callable.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise UserError(f"--teacher={reference} must be module:function, such as mylab.nets:teach")
    import_modules((module_name,), "--teacher")
    module = sys.modules[module_name]
    if not hasattr(module, name):
        known = (name for name, value in vars(module).items() if callable(value))
        raise unknown_name(f"function of {module_name}", name, known)
    function = getattr(module, name)
    if not callable(function):
        raise UserError(f"--teacher={reference} is not a function, but {function!r:.100}")
    if any(parent.__module__.startswith("torch.nn.") for parent in type(function).__mro__):
        raise UserError(
            f"--teacher={reference} is a network of PyTorch; give a function that takes images, "
            "uint8 [B,H,W,3], normalises them as in its training, and returns its logits"
        )
    return function


def reads_other_images(
    teacher: Teacher, source: ImageSource, num_classes: int, batch_size: int
) -> bool:
    """Returns whether a teacher's logits of an image change with the rest of its batch.

    They do where batch norm uses the statistics of the batch, and where outputs are random: in a
    network in training mode. The first image is given twice, with the images after it and with
    black ones.

    Args:
      teacher: see `compute_outputs`.
      source: the images.
      num_classes: that the logits must have.
      batch_size: of each call.

    Raises:
      UserError: see `to_arrays`.
    """
    images = EvalBatches(source, batch_size)[0]["image"]
    black = np.zeros_like(images)
    black[0] = images[0]
    first, second = (
        to_arrays(_call(teacher, batch), batch_size, num_classes)["logits"][0]
        for batch in (images, black)
    )
    return bool(np.max(np.abs(first - second)) > _ROUNDING * np.max(np.abs(first)))


def compute_outputs(
    teacher: Teacher,
    source: ImageSource,
    num_classes: int,
    *,
    batch_size: int,
    mirrored: bool,
    description: str,
) -> Iterator[dict[str, np.ndarray]]:
    """Calls a teacher for every image, in the order of the source, with a progress bar.

    Args:
      teacher: receives batches of one size; the last one is padded.
      source: the images.
      num_classes: that the logits must have.
      batch_size: of each call.
      mirrored: whether to call it for the mirror images too.
      description: of the progress bar.

    Yields:
      For each batch the arrays of a file of teacher outputs, float32 [b,views,...], and the
      images' "labels", int32 [b].

    Raises:
      UserError: if the outputs are not what they should be, naming the first wrong one.
    """
    expected: dict[str, tuple[int, ...]] = {}
    first = 0
    with tqdm(total=len(source), desc=description, unit=" images", disable=None) as bar:
        for batch in EvalBatches(source, batch_size):
            mask = batch["mask"]
            views = [batch["image"]]
            if mirrored:  # PyTorch takes no arrays with negative strides
                views.append(np.ascontiguousarray(batch["image"][:, :, ::-1]))
            outputs = []
            for images in views:
                outputs.append(to_arrays(_call(teacher, images), batch_size, num_classes))
                _check_maps(outputs[-1], *images.shape[1:3])
            expected = expected or _shapes(outputs[0])
            for output, view in zip(outputs, ("", "the mirror image of "), strict=False):
                _check_same(_shapes(output), expected, f"{view}image {first}")
            arrays = {
                name: np.stack([output[name] for output in outputs], axis=1)[mask]
                for name in outputs[0]
            }
            for name, values in arrays.items():
                finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
                if not finite.all():
                    row = first + int(np.argmin(finite))
                    hint = ""
                    if name == "logits" and np.isneginf(values[row - first]).any():
                        hint = (
                            "; if they are logarithms of probabilities, clip these before: "
                            "np.log(np.clip(p, 1e-6, 1))"
                        )
                    raise UserError(f"the teacher's {name} of image {row} contain NaN or Inf{hint}")
            yield {**arrays, "labels": batch["label"][mask]}
            count = int(mask.sum())
            first += count
            bar.update(count)


def _call(teacher: Teacher, images: np.ndarray) -> Any:
    """Calls the teacher, and adds to an error of it what it was called with."""
    try:
        return teacher(images)
    except Exception as error:
        error.add_note(
            f"The teacher of --teacher was called with images, {images.dtype} {list(images.shape)}"
        )
        raise


def to_arrays(returned: Any, batch_size: int, num_classes: int) -> dict[str, np.ndarray]:
    """Turns what a teacher returns for one batch into the arrays of a file.

    Args:
      returned: see `Teacher`. Features are a dictionary, layer -> [B,h,w,c], or [B,h,w] for what
        is an attention map already. Arrays are anything that NumPy can read, or tensors of
        PyTorch on any device.
      batch_size: B.
      num_classes: C.

    Returns:
      "logits" [B,C], "embedding" [B,D] and "attention_LAYER" [B,h,w] of those that there are, all
      float32.

    Raises:
      UserError: on a wrong type or shape, or a layer's name that a file cannot have.
    """
    if isinstance(returned, Mapping):
        parts = dict(returned)
    elif isinstance(returned, tuple | list):
        parts = dict(zip(_NAMES, returned, strict=False))
        if len(returned) > len(_NAMES):
            raise UserError(f"the teacher returned {len(returned)} values; {_RETURNS}")
    else:
        parts = {"logits": returned}
    for name in parts:
        if name not in _NAMES:
            raise unknown_name("output of the teacher", str(name), _NAMES)
    if parts.get("logits") is None:
        raise UserError(f"the teacher returned no logits; {_RETURNS}")
    arrays = {"logits": _array(parts["logits"], "logits")}
    _check_shape(arrays["logits"], "logits", (batch_size, num_classes))
    if parts.get("embedding") is not None:
        arrays["embedding"] = _array(parts["embedding"], "embedding")
        _check_shape(arrays["embedding"], "embedding", (batch_size, "D"))
    features = {} if parts.get("features") is None else parts["features"]
    if not isinstance(features, Mapping):
        raise UserError(
            f"the teacher's features are a {type(features).__name__}; they must be a dictionary, "
            "layer -> [B,h,w,c], such as {'stage1': ...}"
        )
    for layer, feature in features.items():
        if "/" in str(layer):
            raise UserError(
                f"the teacher's feature {layer!r} has a '/' in its name, which becomes part of a "
                "file name: rename it"
            )
        values = _array(feature, f"feature {layer!r}")
        if values.ndim == 4:
            # `losses.functional.attention_map`, without starting JAX: it would reserve most of the
            # memory of a GPU that the teacher computes on.
            values = np.einsum("bhwc,bhwc->bhw", values, values)
        if values.ndim != 3 or len(values) != batch_size:
            raise UserError(
                f"the teacher's feature {layer!r} has the shape {list(np.shape(feature))}; it must "
                f"be [{batch_size},h,w,c], or [{batch_size},h,w] for an attention map"
            )
        arrays[f"{ATTENTION}{layer}"] = values
    return arrays


def _check_maps(arrays: Mapping[str, np.ndarray], height: int, width: int) -> None:
    """Raises UserError if a map of images of equal height and width has others."""
    for name, array in arrays.items():
        if name.startswith(ATTENTION) and height == width and array.shape[1] != array.shape[2]:
            layer = name.removeprefix(ATTENTION)
            raise UserError(
                f"the teacher's feature {layer!r} has maps of {array.shape[1]}x{array.shape[2]} "
                f"for images of {height}x{width}: features are [B,h,w,c], with the channels last; "
                "of PyTorch's return feature.permute(0, 2, 3, 1)"
            )


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the names of arrays [B,...], with the shapes of an image."""
    return {name: array.shape[1:] for name, array in arrays.items()}


def _check_same(
    shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], image: str
) -> None:
    """Makes sure that a teacher returns for a batch what it has returned for the first one.

    Args:
      shapes: of the outputs for the batch.
      expected: of those for the first batch.
      image: the first one of the batch, for the message.

    Raises:
      UserError: naming the first array that differs.
    """
    for name in {**expected, **shapes}:
        before, now = expected.get(name), shapes.get(name)
        if before != now:
            raise UserError(
                f"the teacher must return the same arrays for all images, but its {name} is "
                f"{_describe(before)} for image 0 and {_describe(now)} for {image}"
            )


def _describe(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"[{','.join(map(str, ('B', *shape)))}]"


def _array(value: Any, name: str) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor of PyTorch: NumPy reads only those without gradient,
        value = value.detach().cpu().float()  # in the CPU's memory, and not of bfloat16
    try:
        return np.array(value, np.float32)  # a copy: the teacher may write to its array again
    except (TypeError, ValueError) as error:
        raise UserError(f"the teacher's {name} are not an array of numbers: {error}") from error


def _check_shape(array: np.ndarray, name: str, wanted: tuple[int | str, ...]) -> None:
    pairs = zip(array.shape, wanted, strict=False)
    if array.ndim != len(wanted) or any(isinstance(n, int) and m != n for m, n in pairs):
        shape = ",".join(map(str, wanted))
        hint = ""
        if name == "logits" and array.ndim == 2 and array.shape[0] == wanted[0]:
            hint = ": the teacher must have the classes of the data set, see --list"
        raise UserError(f"the teacher's {name} are {list(array.shape)}, not [{shape}]{hint}")
