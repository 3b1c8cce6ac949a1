"""Preflight checks: whole settings and shapes, before any data are prepared or networks trained."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from amdjax import distributed
from amdjax.checkpoint import newest_checkpoint, read_description
from amdjax.data.augment import create_augment, create_strong_augment
from amdjax.data.mixing import create_mix
from amdjax.errors import UserError, unknown_name
from amdjax.experiment import RunSpec, sees_unlabeled
from amdjax.files import local_path
from amdjax.losses import LossInputs, Objective, build_objective
from amdjax.models import Ensemble, Model, Outputs, create_model, map_sizes
from amdjax.predictor import trained_predicting_losses
from amdjax.pretrained import TeacherSource, create_teacher, find_run, teacher_sources
from amdjax.teacher_outputs.stored import StoredOutputs, open_outputs
from amdjax.training.optimizer import create_optimizer
from amdjax.training.trackers import check_trackers
from amdjax.workdir import TrainingLength

_MAX_DROPPED = 0.1  # of the training images, by which an epoch may be shorter without a warning


def dummy_outputs(model: Model | StoredOutputs, image_shape: tuple[int, ...]) -> Outputs:
    """Returns outputs for two black images: of a network with new variables, or as in a file."""
    if isinstance(model, StoredOutputs):
        return model.dummy_outputs()
    images = jnp.zeros((2, *image_shape))
    return model.init_with_output(jax.random.key(0), images, train=False)[0]


def dummy_inputs(
    student: Model,
    teacher: Model | StoredOutputs | None,
    image_shape: tuple[int, ...],
    num_examples: int = 2,
) -> LossInputs:
    """Returns the inputs of the losses for two black images; for `Objective.init`.

    Args:
      student: the network that is trained.
      teacher: the network that it learns from, or a file of its outputs.
      image_shape: (H, W, 3).
      num_examples: number of images in the training split, on which shapes of variables may depend.
    """
    ours = dummy_outputs(student, image_shape)
    theirs = None if teacher is None else dummy_outputs(teacher, image_shape)
    return LossInputs(
        ours,
        theirs,
        labels=jnp.zeros(2, jnp.int32),
        step=jnp.zeros((), jnp.int32),
        gather=lambda x: x,
        example_index=jnp.arange(2, dtype=jnp.int32),
        num_examples=num_examples,
        key=jax.random.key(0),
        strong_student=ours,
        strong_teacher=theirs,
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
            if spec.teacher is not None:
                _check_teacher(config, objective)
        except UserError as error:
            raise UserError(f"{spec.name}: {error}") from error


def check_shapes(
    config: ml_collections.ConfigDict,
    specs: Sequence[RunSpec],
    num_classes: int,
    image_shape: tuple[int, ...],
) -> None:
    """Computes the losses of every run on shapes alone.

    Args:
      config: of the experiment.
      specs: its runs.
      num_classes: of the data set.
      image_shape: (H, W, 3) of the data set.

    Raises:
      UserError: if a loss cannot compare teacher and student, or moments are to be exchanged in a
        layer that the student does not have.
    """

    def compute_losses(spec: RunSpec) -> tuple:
        student = create_model(spec.model, num_classes)
        teacher: Model | StoredOutputs | None = None
        if spec.teacher is not None and config.teacher.outputs:
            teacher = open_outputs(config.teacher.outputs)
            teacher.check_classes(num_classes)
        elif spec.teacher is not None:
            teacher = create_teacher(config.teacher, num_classes)
        inputs = dummy_inputs(student, teacher, image_shape)
        features = inputs.student.features
        if not spec.is_teacher and config.mix.name == "moex" and config.mix.layer not in features:
            raise unknown_name("config.mix.layer", config.mix.layer, features)
        objective = build_objective(spec.losses, some_unlabeled=sees_unlabeled(config, spec))
        if isinstance(teacher, Ensemble) and inputs.teacher is not None:
            _check_joined(config, teacher, objective, inputs.teacher, image_shape)
        computed = objective.apply(objective.init(jax.random.key(0), inputs), inputs)
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
    folder = find_run(path)
    run = None if folder is None else read_description(folder)
    if run is None or not data.validation:
        return
    ours = (data.validation, data.validation_seed)
    trained = run.get("settings", {}).get("data", {})
    theirs = (trained.get("validation", 0.0), trained.get("validation_seed", 0))
    if trained.get("name") == data.name and theirs != ours:
        print(
            f"warning: {subject} was trained with config.data.validation={theirs[0]} and "
            f"validation_seed={theirs[1]}, so it has seen images that are held out now: the "
            "accuracy on the validation split is too high",
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
    folder = find_run(path)
    run = None if folder is None else read_description(folder)
    if run is None:
        return
    settings = run.get("settings", {})
    for key in ("mean", "std"):
        ours, theirs = list(config.augment[key]), settings.get("augment", {}).get(key)
        if theirs is not None and ours != theirs:
            print(
                f"warning: {subject} was trained with config.augment.{key}={theirs}, and its input "
                f"is normalised with {ours} here; set --config.augment.{key} to the teacher's "
                "values",
                file=sys.stderr,
            )
    try:
        total = TrainingLength.of(settings).steps(run["data"]["num_images"]["train"])
    except (KeyError, TypeError, ValueError):
        return  # a description that does not have its length
    step = newest_checkpoint(path).name
    if step.isdecimal() and int(step) < total:
        print(
            f"warning: the training of {subject} is not finished: its checkpoint is that of step "
            f"{int(step):,} of {total:,}",
            file=sys.stderr,
        )


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
            "config.teacher.cached keeps the teacher's logits, embedding and attention maps, but "
            f"{' and '.join(objective.uncacheable_losses)} needs whole features; switch it off"
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
        sizes = map_sizes([dummy_outputs(one, image_shape) for one in teacher.members], layer)
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


def check_images_unchanged(config: ml_collections.ConfigDict, setting: str) -> None:
    """Makes sure that a teacher's outputs can be computed once for each training image.

    Args:
      config: of the experiment.
      setting: that says so, for the message.

    Raises:
      UserError: if an image is changed by more than a flip.
    """
    changes = {
        "augment.padding": config.augment.padding > 0,
        "augment.policy": config.augment.policy != "none",
        "augment.color_jitter": any(config.augment.color_jitter),
        "augment.noise": config.augment.noise > 0,
        "augment.erasing": config.augment.erasing > 0,
        "data.random_resized_crop": config.data.random_resized_crop,
        "mix.name": config.mix.name in ("mixup", "cutmix") and config.mix.teacher_sees_mixed,
    }
    for key, changed in changes.items():
        if changed:
            section, name = key.split(".")
            raise UserError(
                f"{setting} has the teacher's outputs once for each image, but "
                f"config.{key}={config[section][name]!r} changes the images; switch one of the "
                "two off"
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
