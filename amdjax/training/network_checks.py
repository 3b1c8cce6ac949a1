"""Checks of networks: that training can call them, and that their outputs have valid shapes."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from amdjax.config import compute_dtype
from amdjax.errors import UserError, error_summary, user_line
from amdjax.experiment import RunSpec
from amdjax.models import Model, Outputs, create_model
from amdjax.models.layers import STAGES
from amdjax.pretrained import teacher_sources
from amdjax.training import dummy_outputs
from amdjax.training.dummy_outputs import NotOutputs, output_shapes


def check_networks(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Makes sure that training can call every network, and that it returns valid outputs.

    Args:
      config: of the experiment.
      specs: its runs.
      num_classes: of the data set.
      image_shape: (H, W, 3).

    Raises:
      UserError: naming the first network that cannot be called, or whose outputs are wrong.
    """
    arguments: dict[str, dict[str, Any]] = {}
    if any(spec.teacher for spec in specs) and not config.teacher.outputs:
        arguments |= {source.model: {"train": False} for source in teacher_sources(config.teacher)}
    arguments |= {spec.model: {"train": True, "feature_hook": None} for spec in specs}
    for name, keywords in arguments.items():
        model = create_model(name, num_classes, compute_dtype(config))
        _check_call(name, model, keywords)
        try:
            outputs: Any = output_shapes(model, image_shape)
        except NotOutputs as error:
            outputs = error.returned
        except Exception as error:
            if line := user_line(
                error, called_by=dummy_outputs.__file__
            ):  # of a registered network
                raise UserError(
                    f"the outputs of the network {name!r} cannot be computed: "
                    f"{line}{error_summary(error)}"
                ) from error
            raise
        _check_outputs(name, outputs, num_classes)


def _check_call(name: str, model: Model, keywords: Mapping[str, Any]) -> None:
    """Makes sure that a network can be hashed, and called with images and keyword arguments.

    Networks of equal attributes share their compiled programs, therefore they must be hashable.

    Args:
      name: of the network.
      model: the network.
      keywords: with which it is called in training.

    Raises:
      UserError: naming an attribute that is not hashable, or the argument that the network does not
        take.
    """
    if not _is_hashable(model):
        values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
        wrong = [f"{key}={value!r}" for key, value in values.items() if not _is_hashable(value)]
        if not wrong:
            raise UserError(
                f"the network {name!r} is not hashable: define `__hash__` beside `__eq__`"
            )
        raise UserError(
            f"the attributes of the network {name!r} must be hashable, but {', '.join(wrong)} is "
            "not: use a tuple instead of a list or an array"
        )
    try:
        inspect.signature(model.__call__).bind(None, **keywords)
    except TypeError as error:
        call = ", ".join(["images", *(f"{key}={value}" for key, value in keywords.items())])
        raise UserError(
            f"the network {name!r} cannot be called as network({call}): {error}; define "
            "`__call__(self, x, train=False, feature_hook=None)`"
        ) from error


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_outputs(name: str, outputs: Any, num_classes: int) -> None:
    """Makes sure that a network returns what is read of it in training and by the report.

    Args:
      name: of the network.
      outputs: for two images, of which only shapes matter.
      num_classes: of the data set.

    Raises:
      UserError: if that is not `Outputs`, or logits, embedding or a map have another shape,
        or logits or embedding another dtype than float32.
    """
    if not isinstance(outputs, Outputs):
        raise UserError(
            f"the network {name!r} returns an object of type {type(outputs).__name__}; it must "
            "return amdjax.models.Outputs(logits, features, embedding)"
        )
    if not isinstance(outputs.features, Mapping):
        raise UserError(
            f"the features of the network {name!r} are of type {type(outputs.features).__name__}; "
            "they must be a dict of layer and feature, {} if there are none"
        )
    check_shape(
        f"the logits of the network {name!r}",
        outputs.logits,
        (2, num_classes),
        f"the data set has {num_classes} classes, and the network's attribute num_classes is set "
        "to that; use it in the classifier",
    )
    check_shape(
        f"the embedding of the network {name!r}",
        outputs.embedding,
        (2, "D"),
        "average a map over its positions, or reshape it",
    )
    for field in ("logits", "embedding"):
        dtype = getattr(outputs, field).dtype
        if dtype != jnp.float32:
            raise UserError(
                f"the {field} of the network {name!r} must be float32, not {dtype}: losses and "
                "accuracies need its precision; cast them with .astype(jnp.float32)"
            )
    for layer in STAGES:
        if layer in outputs.features:
            check_shape(
                f"the feature {layer} of the network {name!r}",
                outputs.features[layer],
                (2, "H", "W", "C"),
                "reshape it; a feature that is not a map must not have a name of which "
                f"the report draws maps ({', '.join(STAGES)})",
            )


def check_shape(
    subject: str,
    array: jax.Array | jax.ShapeDtypeStruct | None,
    expected: tuple[int | str, ...],
    remedy: str,
) -> None:
    """Makes sure that an output for two images has the expected axes.

    Args:
      subject: the output, for the message.
      array: the output; None: the network has none.
      expected: length of each axis, or its name where any length will do.
      remedy: what to do, for the message.

    Raises:
      UserError: if it has other ones.
    """
    shape = None if array is None else list(np.shape(array))
    fits = shape is not None and len(shape) == len(expected)
    if not fits or any(
        isinstance(wanted, int) and wanted != length
        for wanted, length in zip(expected, shape or (), strict=True)
    ):
        raise UserError(
            f"{subject} must have the shape [{', '.join(map(str, expected))}] for two images, "
            f"not {shape}: {remedy}"
        )
