"""Preflight checks: whole settings and shapes, before any data are prepared or networks trained."""

import dataclasses
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from amdjax import distributed
from amdjax.checkpoint import has_checkpoint, newest_checkpoint, step_of
from amdjax.data.augment import create_augment, create_strong_augment
from amdjax.data.mixing import create_mix
from amdjax.errors import UserError, first_line, unknown_name
from amdjax.experiment import RunSpec, sees_unlabeled
from amdjax.files import local_path
from amdjax.losses import LossInputs, Objective, build_objective
from amdjax.models import Ensemble, Model, Outputs, create_model, map_sizes
from amdjax.predictor import predicting_losses, trained_predicting_losses
from amdjax.pretrained import (
    TeacherSource,
    create_teacher,
    describe_source,
    teacher_name,
    teacher_sources,
)
from amdjax.teacher_outputs.stored import StoredOutputs, check_images_unchanged, open_outputs
from amdjax.training.dummy import NotOutputs, dummy_inputs, output_shapes
from amdjax.training.optimizer import create_optimizer
from amdjax.training.trackers import check_trackers

_MAX_DROPPED = 0.1  # of the training images, by which an epoch may be shorter without a warning
_DRAWN = ("stage1", "stage2", "stage3")  # the layers whose maps the report draws


def check_settings(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> None:
    """Checks all settings that need no data: optimiser, augmentation, trackers, networks.

    Args:
      config: of the experiment.
      specs: its runs.

    Raises:
      UserError: on an unknown name, a value out of range, or settings that exclude each other.
    """
    create_optimizer(config.optim, steps_per_epoch=1, epochs=config.epochs)
    create_augment(config.augment)
    create_mix(config.mix, distributed.reverse_batch)
    check_trackers(config.trackers)
    for spec in specs:
        try:
            create_model(spec.model, num_classes=2)
            objective = build_objective(spec.losses)
            if objective.needs_strong_view:
                create_strong_augment(config.augment)
            if config.ema_decay and (predicting := trained_predicting_losses(spec.losses)):
                raise UserError(
                    f"config.ema_decay={config.ema_decay} averages the network alone, but the "
                    f"trained layers of {' and '.join(predicting)} are part of the prediction; set "
                    "it to 0"
                )
            _check_pairs(config, objective)
            if spec.teacher is not None:
                _check_teacher(config, objective)
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def _check_pairs(config: ml_collections.ConfigDict, objective: Objective) -> None:
    """Makes sure that each part of a batch has two halves, where a loss compares them.

    Raises:
      UserError: if a part has an odd number of images.
    """
    losses = [term.name for term in objective.terms if term.spec.pairs_halves]
    if losses and config.batch_size // config.accumulate % 2:
        parts = f" / config.accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise UserError(
            f"{losses[0]} compares the two halves of a batch, but config.batch_size="
            f"{config.batch_size}{parts} is odd"
        )


def check_shapes(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes the outputs of every network and the losses of every run on shapes alone.

    Args:
      config: of the experiment.
      specs: its runs.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a network cannot be called or its outputs have wrong shapes, a loss cannot
        compare teacher and student, or moments are to be exchanged in a layer that the
        student does not have.
    """
    _check_networks(config, specs, num_classes, image_shape)

    def compute_losses(spec: RunSpec) -> tuple:
        student = create_model(spec.model, num_classes)
        teacher: Model | StoredOutputs | None = None
        if spec.teacher is not None and config.teacher.outputs:
            teacher = open_outputs(config.teacher.outputs)
            teacher.check_classes(num_classes)
        elif spec.teacher is not None:
            teacher = create_teacher(config.teacher, num_classes)
        inputs = dummy_inputs(
            output_shapes(student, image_shape),
            None if teacher is None else output_shapes(teacher, image_shape),
        )
        features = inputs.student.features
        if not spec.is_teacher and config.mix.name == "moex" and config.mix.layer not in features:
            raise unknown_name("config.mix.layer", config.mix.layer, features)
        objective = build_objective(spec.losses, some_unlabeled=sees_unlabeled(config, spec))
        if isinstance(teacher, Ensemble) and inputs.teacher is not None:
            _check_joined(config, teacher, objective, inputs.teacher, image_shape)
        try:
            variables = objective.init(jax.random.key(0), inputs)
            computed = objective.apply(variables, inputs)
        except UserError:
            raise
        except (IndexError, TypeError, ValueError) as error:
            names = {"student": spec.model, "teacher": teacher_name(config.teacher)}
            _explain_features(objective, inputs, names, error)
            raise
        predicting = objective.predicting_variables(variables) or None
        for loss in predicting_losses(spec.losses):
            _check_shape(
                f"the logits that the loss {loss} predicts with the network {spec.model!r}",
                objective.predict(inputs.student, predicting).logits,
                (2, num_classes),
                "class_weights must be the kernel [D, num_classes] of the classifier, where the "
                "loss reads them",
            )
        if inputs.teacher is not None and (config.teacher.cached or config.teacher.outputs):
            check_cached_sizes(objective, inputs.student, inputs.teacher)
        return computed

    for spec in specs:
        try:
            jax.eval_shape(lambda spec=spec: compute_losses(spec))
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def print_small_data_warnings(config: ml_collections.ConfigDict, sizes: Iterable[int]) -> None:
    """Prints warnings on stderr about settings that are meant for more epochs or more images.

    Args:
      config: of the experiment.
      sizes: numbers of training images of the runs, each at least one batch.
    """
    late = [epoch for epoch in config.optim.boundaries if epoch >= config.epochs]
    if late and config.optim.schedule == "step" and not config.max_steps:  # a trial
        print(
            f"warning: config.optim.boundaries {', '.join(map(str, late))} are not reached in "
            f"{config.epochs} epochs, so the learning rate stays higher than intended; "
            "scale them with config.epochs",
            file=sys.stderr,
        )
    for num_train in sorted(set(sizes)):
        dropped = num_train % config.batch_size
        if dropped > _MAX_DROPPED * num_train:
            print(
                f"warning: {dropped:,} of {num_train:,} training images "
                f"({dropped / num_train:.0%}) do not fill a batch of {config.batch_size} and are "
                "left out of each epoch, other ones each time; lower config.batch_size",
                file=sys.stderr,
            )


def print_seen_validation_warning(
    data: ml_collections.ConfigDict, path: Path, subject: str
) -> None:
    """Prints a warning on stderr if a network was trained on images that are held out now.

    Args:
      data: `config.data`.
      path: of the network's weights; nothing is known of those that are not of a run.
      subject: the network, for the message.
    """
    run = describe_source(path)
    if run is None or not data.validation:
        return
    ours = (data.validation, data.validation_seed)
    trained = run.settings["data"]
    theirs = (trained.get("validation", 0.0), trained.get("validation_seed", 0))
    if trained.get("name") == data.name and theirs != ours:
        print(
            f"warning: {subject} was trained with config.data.validation={theirs[0]} and "
            f"validation_seed={theirs[1]}, so it has seen images that are held out now: the "
            "accuracy on the validation split is too high",
            file=sys.stderr,
        )


def print_started_students_warning(
    workdir: Path, teacher: RunSpec, specs: Sequence[RunSpec], total: int
) -> None:
    """Prints a warning on stderr if students have learned from a teacher whose training continues.

    That is so after `config.max_steps` was raised, or the teacher's folder was removed.

    Args:
      workdir: of the experiment.
      teacher: the run of the teacher, in this workdir.
      specs: all runs.
      total: the step after which the teacher is finished.
    """
    started = [
        spec.name
        for spec in specs
        if spec.teacher == teacher.name and has_checkpoint(workdir / spec.name)
    ]
    done = step_of(newest_checkpoint(workdir / teacher.name)) or 0
    if started and done < total:
        print(
            f"warning: {', '.join(started)} already learned from an earlier {teacher.name}, which "
            f"is now trained from step {done:,} to {total:,}; delete the folders of the students "
            "that should learn from the new one",
            file=sys.stderr,
        )


def print_teacher_warnings(config: ml_collections.ConfigDict, source: TeacherSource) -> None:
    """Prints warnings on stderr about a teacher that was trained in another run of amdjax.

    They are about images that it has seen, another normalisation, and a training that is not
    finished; nothing is known of weights that are not of a run.

    Args:
      config: of the experiment.
      source: the teacher.
    """
    path = local_path(source.checkpoint, "config.teacher")
    subject = f"the teacher {source.checkpoint}"
    print_seen_validation_warning(config.data, path, subject)
    run = describe_source(path)
    if run is None:
        return
    for key in ("mean", "std"):
        ours, theirs = list(config.augment[key]), run.settings["augment"][key]
        if ours != theirs:
            print(
                f"warning: {subject} was trained with config.augment.{key}={theirs}, and its input "
                f"is normalised with {ours} here; set --config.augment.{key} to the teacher's "
                "values",
                file=sys.stderr,
            )
    total, step = run.length.steps(run.data.num_images["train"]), step_of(newest_checkpoint(path))
    if step is not None and step < total:
        print(
            f"warning: the training of {subject} is not finished: its checkpoint is that of step "
            f"{step:,} of {total:,}",
            file=sys.stderr,
        )


def _check_networks(
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
        arguments |= {one.model: {"train": False} for one in teacher_sources(config.teacher)}
    arguments |= {spec.model: {"train": True, "feature_hook": None} for spec in specs}
    for name, keywords in arguments.items():
        model = create_model(name, num_classes)
        _check_call(name, model, keywords)
        try:
            outputs: Any = output_shapes(model, image_shape)
        except NotOutputs as error:
            outputs = error.returned
        _check_outputs(name, outputs, num_classes)


def _check_call(name: str, model: Model, keywords: Mapping[str, Any]) -> None:
    """Makes sure that a network can be hashed, and called with images and keyword arguments.

    Networks of equal attributes share their compiled programs, therefore they must have a hash.

    Args:
      name: of the network.
      model: the network.
      keywords: with which it is called in training.

    Raises:
      UserError: naming an attribute that has no hash, or the argument that the network does not
        take.
    """
    if not _has_hash(model):
        values = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
        wrong = [f"{key}={value!r}" for key, value in values.items() if not _has_hash(value)]
        if not wrong:
            raise UserError(f"the network {name!r} has no hash: define `__hash__` beside `__eq__`")
        raise UserError(
            f"the attributes of the network {name!r} must have a hash, which {', '.join(wrong)} "
            "has not: take a tuple in place of a list or an array"
        )
    try:
        inspect.signature(model.__call__).bind(None, **keywords)
    except TypeError as error:
        call = ", ".join(["images", *(f"{key}={value}" for key, value in keywords.items())])
        raise UserError(
            f"the network {name!r} cannot be called as network({call}): {error}; define "
            "`__call__(self, x, train=False, feature_hook=None)`"
        ) from error


def _has_hash(value: Any) -> bool:
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
      UserError: if that is not `Outputs`, or logits, embedding or a map have another shape.
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
    _check_shape(
        f"the logits of the network {name!r}",
        outputs.logits,
        (2, num_classes),
        f"the data set has {num_classes} classes, and the network's attribute num_classes is set "
        "to that; use it in the classifier",
    )
    _check_shape(
        f"the embedding of the network {name!r}",
        outputs.embedding,
        (2, "D"),
        "average a map over its positions, or reshape it",
    )
    for layer in _DRAWN:
        if layer in outputs.features:
            _check_shape(
                f"the feature {layer} of the network {name!r}",
                outputs.features[layer],
                (2, "H", "W", "C"),
                "reshape it; a feature that is not a map must have another name than those of "
                f"which the report draws maps ({', '.join(_DRAWN)})",
            )


def _check_shape(
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


def _explain_features(
    objective: Objective, inputs: LossInputs, names: Mapping[str, str], error: Exception
) -> None:
    """Explains an error of the losses, where one of them reads a feature that is not a map.

    Some losses compare features of any shape, so that these are not refused before.

    Args:
      objective: of the run.
      inputs: of the losses, of which only shapes matter.
      names: of the networks, "student" and "teacher".
      error: of the losses.

    Raises:
      UserError: if a loss reads such a feature.
    """
    for term in objective.terms:
        for layers in term.spec.layer_pairs(term.selection):
            for side, layer in zip(("student", "teacher"), layers, strict=True):
                if not any(name.endswith(f"{side}.features") for name in term.spec.inputs):
                    continue
                feature = getattr(inputs, side).features.get(layer)
                if feature is not None and feature.ndim != 4:
                    raise UserError(
                        f"the loss {term.name} cannot be computed ({first_line(error)}): it reads "
                        f"{layer} of the {side} {names[side]!r}, which is {list(feature.shape)} "
                        "for two images and not a map [2, H, W, C]; reshape it, or name other "
                        f"layers in config.losses.{term.name}.features"
                    ) from error


def _check_teacher(config: ml_collections.ConfigDict, objective: Objective) -> None:
    """Makes sure that there is a teacher with all that the losses of a run need.

    Raises:
      UserError: if the network or the file of outputs does not exist; or if outputs are computed
        once, but an image is changed by more than a flip, or a loss needs more of the teacher
        than logits, embedding and attention maps.
    """
    if config.teacher.outputs:
        check_images_unchanged(config, "config.teacher.outputs")
        open_outputs(config.teacher.outputs).check_inputs(objective, config.augment.flip)
        return
    create_teacher(config.teacher, num_classes=2)
    if not config.teacher.cached:
        return
    check_images_unchanged(config, "config.teacher.cached")
    if objective.uncacheable_losses:
        raise UserError(
            "config.teacher.cached keeps the teacher's logits, embedding and attention maps, which "
            f"is not enough for {' and '.join(objective.uncacheable_losses)}; set it to False"
        )


def _check_joined(
    config: ml_collections.ConfigDict,
    teacher: Ensemble,
    objective: Objective,
    outputs: Outputs,
    image_shape: tuple[int, ...],
) -> None:
    """Makes sure that an ensemble has the features that the losses of a run read.

    Args:
      config: of the experiment.
      teacher: the ensemble.
      objective: of the run.
      outputs: the ensemble's, of which only the names of the features matter.
      image_shape: (H, W, 3).

    Raises:
      UserError: if the members have a feature in different sizes, or not all have it.
    """
    for loss, layer in objective.teacher_layers:
        if layer in outputs.features:
            continue
        sizes = map_sizes([output_shapes(one, image_shape) for one in teacher.members], layer)
        if any(sizes):  # else no member knows the name
            members = (
                f"{source.model} has {'no ' + layer if size is None else 'x'.join(map(str, size))}"
                for source, size in zip(teacher_sources(config.teacher), sizes, strict=True)
            )
            raise UserError(
                f"the loss {loss} reads {layer} of the teachers, which is joined only from maps of "
                f"one size: {', '.join(members)}; name other layers in "
                f"config.losses.{loss}.features, or choose other teachers"
            )


def check_cached_sizes(objective: Objective, student: Outputs, teacher: Outputs) -> None:
    """Makes sure that cached attention maps are those that the losses would compute.

    Args:
      objective: of the run.
      student: the student's outputs, of which only shapes matter.
      teacher: the teacher's outputs, of which only shapes matter.

    Raises:
      UserError: if a teacher's map is larger than the student's: it would be pooled before its
        attention map is taken.
    """
    for name, layer in objective.attention_pairs:
        ours, theirs = student.features[name].shape[1:3], teacher.features[layer].shape[1:3]
        if theirs[0] > ours[0] or theirs[1] > ours[1]:
            raise UserError(
                f"the teacher's {layer} ({theirs[0]}x{theirs[1]}) is larger than the student's "
                f"({ours[0]}x{ours[1]}) and would be pooled before its attention map is taken, "
                "which outputs that are computed once do not allow; switch "
                "config.teacher.cached off, or store maps of the student's size in "
                "config.teacher.outputs"
            )
