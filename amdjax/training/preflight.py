"""Preflight checks: whole settings and shapes, before any data are prepared or networks trained."""

import functools
import json
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections

from amdjax import __version__, distributed, losses
from amdjax.config import compute_dtype, flat_settings
from amdjax.data import DATASETS
from amdjax.data.augment import create_augment, create_strong_augment
from amdjax.data.mixing import create_mix
from amdjax.errors import UserError, first_line, summary, unknown_name, user_line
from amdjax.experiment import RunSpec, sees_unlabeled
from amdjax.losses import LossInputs, Objective, build_objective
from amdjax.models import Ensemble, Model, Outputs, create_model, map_sizes
from amdjax.predictor import predicting_losses, trained_predicting_losses
from amdjax.pretrained import create_teacher, teacher_name, teacher_sources
from amdjax.teacher_outputs.stored import StoredOutputs, check_images_unchanged, open_outputs
from amdjax.training.dummy import dummy_inputs, output_shapes
from amdjax.training.network_checks import check_networks, check_shape
from amdjax.training.optimizer import create_optimizer
from amdjax.training.trackers import check_trackers

# Settings by their dotted names: paths, which each process may have under another name; and what
# does not concern the other processes.
_PATHS = (
    "data.folder",
    "data.unlabeled",
    "data.unknown",
    "init_from",
    "teacher.checkpoint",
    "teacher.outputs",
)
_OF_PROCESS = ("data.data_dir", "trackers")


def check_same_settings(config: ml_collections.ConfigDict) -> None:
    """Makes sure that all processes have the same settings, apart from paths, and the same version.

    With others they would wait for each other forever, or train with parts of both.

    Args:
      config: of the experiment.

    Raises:
      UserError: in all processes, naming those that differ from the first one.
    """
    settings = flat_settings(config)
    settings |= {name: bool(settings[name]) for name in _PATHS}
    settings["teacher.ensemble"] = len(settings["teacher.ensemble"])
    compared = {name: settings[name] for name in settings if name not in _OF_PROCESS}
    value = json.dumps([__version__, compared], sort_keys=True, default=str)
    if differing := distributed.differing_processes(value):
        raise UserError(
            f"process {', '.join(map(str, differing))} has other settings, or another version of "
            "amdjax, than process 0; start all with the same flags, in the same environment. This "
            f"one, process {distributed.process_index()}, has amdjax {__version__}"
        )


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
    if config.data.folder and config.data.name in DATASETS and config.data.name != "folder":
        raise UserError(
            f"config.data.folder={config.data.folder} is not read with config.data.name="
            f"{config.data.name!r}; set that to 'folder', as the recipe folder.py does"
        )
    check_trackers(config.trackers)
    for spec in specs:
        _check_network(spec)
        try:
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


def _check_network(spec: RunSpec) -> None:
    """Makes sure that the network of a run exists; an error names the setting."""
    try:
        create_model(spec.model, num_classes=2)
    except UserError as error:
        role = "teacher" if spec.is_teacher else "student"
        raise UserError(f"config.{role}.name: {error}") from error


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
    check_networks(config, specs, num_classes, image_shape)
    for spec in specs:
        try:
            compute = functools.partial(_compute_losses, config, spec, num_classes, image_shape)
            jax.eval_shape(compute)
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def _compute_losses(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    num_classes: int,
    image_shape: tuple[int, ...],
) -> tuple:
    """Returns the losses of a run on zeros; see `check_shapes`."""
    dtype = compute_dtype(config)
    student = create_model(spec.model, num_classes, dtype)
    teacher: Model | StoredOutputs | None = None
    if spec.teacher is not None and config.teacher.outputs:
        teacher = open_outputs(config.teacher.outputs)
        teacher.check_classes(num_classes)
    elif spec.teacher is not None:
        teacher = create_teacher(config.teacher, num_classes, dtype)
    inputs = dummy_inputs(
        output_shapes(student, image_shape),
        None if teacher is None else output_shapes(teacher, image_shape),
    )
    is_mixed = not spec.is_teacher and config.mix.name != "none"
    features = inputs.student.features
    if is_mixed and config.mix.name == "moex" and config.mix.layer not in features:
        raise unknown_name("config.mix.layer", config.mix.layer, features)
    if is_mixed:
        inputs = inputs._replace(labels=jnp.zeros((2, num_classes)))
    objective = build_objective(spec.losses, some_unlabeled=sees_unlabeled(config, spec))
    if isinstance(teacher, Ensemble) and inputs.teacher is not None:
        _check_joined(config, teacher, objective, inputs.teacher, image_shape)
    try:
        variables = objective.init(jax.random.key(0), inputs)
        computed = objective.apply(variables, inputs)
    except UserError:
        raise
    except Exception as error:
        names = {"student": spec.model, "teacher": teacher_name(config.teacher)}
        _explain_features(objective, inputs, names, error)
        if line := user_line(error, called_by=losses.objective.__file__):  # of a registered loss
            hint = f"; with config.mix.name={config.mix.name!r} labels are probabilities [B,C]"
            raise UserError(
                f"a loss cannot be computed: {line}{summary(error)}{hint if is_mixed else ''}"
            ) from error
        raise
    predicting = objective.predicting_variables(variables) or None
    for loss in predicting_losses(spec.losses):
        check_shape(
            f"the logits that the loss {loss} predicts with the network {spec.model!r}",
            objective.predict(inputs.student, predicting).logits,
            (2, num_classes),
            "class_weights must be the kernel [D, num_classes] of the classifier, where the "
            "loss reads them",
        )
    if inputs.teacher is not None and (config.teacher.cached or config.teacher.outputs):
        check_cached_sizes(objective, inputs.student, inputs.teacher)
    return computed


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
