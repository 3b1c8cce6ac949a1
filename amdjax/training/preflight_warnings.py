"""Warnings before training, about what is allowed but may not be what is meant."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_collections

from amdjax.checkpoint_files import has_checkpoint, newest_checkpoint, step_of
from amdjax.experiment import RunSpec
from amdjax.files import local_path
from amdjax.pretrained import TeacherSource
from amdjax.run_description import RunDescription
from amdjax.weight_sources import describe_source

_MAX_DROPPED = 0.1  # largest part of the training images that an epoch may drop without a warning


def small_data_warnings(config: ml_collections.ConfigDict, sizes: Iterable[int]) -> list[str]:
    """Returns warnings about settings that are meant for more epochs or more images.

    Args:
      config: of the experiment.
      sizes: numbers of training images of the runs, each at least one batch.
    """
    warnings = []
    late = [epoch for epoch in config.optim.boundaries if epoch >= config.epochs]
    if late and config.optim.schedule == "step" and not config.max_steps:  # a trial
        warnings.append(
            f"config.optim.boundaries {', '.join(map(str, late))} are not reached in "
            f"{config.epochs} epochs, so the learning rate stays higher than intended; "
            "scale them with config.epochs"
        )
    for num_train in sorted(set(sizes)):
        dropped = num_train % config.batch_size
        if dropped > _MAX_DROPPED * num_train:
            warnings.append(
                f"{dropped:,} of {num_train:,} training images ({dropped / num_train:.0%}) do not "
                f"fill a batch of {config.batch_size} and are left out of each epoch, different "
                "ones each time; lower config.batch_size"
            )
    return warnings


def long_ramp_warnings(config: ml_collections.ConfigDict, specs: Sequence[RunSpec]) -> list[str]:
    """Returns a warning for each loss whose weight is still rising when the training ends.

    Args:
      config: of the experiment.
      specs: its runs.
    """
    methods: dict[tuple[str, float], list[str]] = {}
    for spec in specs:
        for loss, settings in spec.losses.items():
            if settings["weight"] and settings["ramp_up_epochs"] > config.epochs:
                methods.setdefault((loss, settings["ramp_up_epochs"]), []).append(spec.label)
    return [
        f"config.losses.{loss}.ramp_up_epochs={length:g} of {', '.join(dict.fromkeys(labels))} is "
        f"longer than the {config.epochs} epochs of the training, so the loss never has its full "
        "weight; scale it with config.epochs"
        for (loss, length), labels in methods.items()
    ]


def unlabeled_warnings(data: ml_collections.ConfigDict) -> list[str]:
    """Returns a warning if images without labels may be those of another split, else none.

    Args:
      data: `config.data`.
    """
    if data.name != "folder" or not data.unlabeled:
        return []
    labeled = local_path(data.folder, "config.data.folder").resolve()
    unlabeled = local_path(data.unlabeled, "config.data.unlabeled").resolve()
    if unlabeled.is_relative_to(labeled):
        part = unlabeled.relative_to(labeled).parts[:1]
        if part and part[0].lower() == "train" and not data.validation:
            return []  # the training images, once more without their labels
    elif not labeled.is_relative_to(unlabeled):
        return []
    return [
        f"config.data.unlabeled={data.unlabeled} and config.data.folder={data.folder} have images "
        "in common, so the students may be trained on images of the test or validation split; keep "
        "the images without labels in another folder"
    ]


def seen_validation_warnings(
    data: ml_collections.ConfigDict, run: RunDescription | None, subject: str
) -> list[str]:
    """Returns a warning if a network was trained on images that are held out now, else none.

    Args:
      data: `config.data`.
      run: that trained the network; None where nothing is known of it, see `describe_source`.
      subject: the network, for the message.
    """
    if run is None or not data.validation:
        return []
    ours = (data.validation, data.validation_seed)
    trained = run.settings["data"]
    theirs = (trained.get("validation", 0.0), trained.get("validation_seed", 0))
    if trained.get("name") != data.name or theirs == ours:
        return []
    return [
        f"{subject} was trained with config.data.validation={theirs[0]} and validation_seed="
        f"{theirs[1]}, so it has seen images that are held out now: the accuracy on the validation "
        "split is too high"
    ]


def started_students_warnings(
    workdir: Path, teacher: RunSpec, specs: Sequence[RunSpec], total: int
) -> list[str]:
    """Returns a warning if students have learned from a teacher whose training continues.

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
    if not started or done >= total:
        return []
    return [
        f"{', '.join(started)} already learned from an earlier {teacher.name}, which is now "
        f"trained from step {done:,} to {total:,}; delete the folders of the students that should "
        "learn from the new one"
    ]


def teacher_warnings(config: ml_collections.ConfigDict, source: TeacherSource) -> list[str]:
    """Returns warnings about a teacher that was trained in another run of amdjax.

    They are about images that it has seen, another normalisation, and a training that is not
    finished; nothing is known of weights that are not of a run.

    Args:
      config: of the experiment.
      source: the teacher.
    """
    path = local_path(source.checkpoint, "config.teacher")
    subject = f"the teacher {source.checkpoint}"
    run = describe_source(path)
    warnings = seen_validation_warnings(config.data, run, subject)
    if run is None:
        return warnings
    for key in ("mean", "std"):
        ours, theirs = list(config.augment[key]), run.settings["augment"][key]
        if ours != theirs:
            warnings.append(
                f"{subject} was trained with config.augment.{key}={theirs}, and its input is "
                f"normalised with {ours} here; set --config.augment.{key} to the teacher's values"
            )
    total, step = run.length.steps(run.data.num_images["train"]), step_of(newest_checkpoint(path))
    if step is not None and step < total:
        warnings.append(
            f"the training of {subject} is not finished: its checkpoint is that of step {step:,} "
            f"of {total:,}"
        )
    return warnings
