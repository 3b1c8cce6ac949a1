"""The calibrated networks of a workdir that classify images: a student and its teacher."""

import dataclasses
from pathlib import Path

import ml_collections

from amdjax.calibrated import CalibratedModel, calibrate
from amdjax.comparison import learned_from
from amdjax.config import gives_network
from amdjax.data.fingerprint import Fingerprint
from amdjax.errors import UserError, note
from amdjax.methods import TEACHER
from amdjax.trained import TrainedModel, restore, restore_given_teacher, restore_student
from amdjax.workdir import UNMOVED, DataPaths, read_config, run_data


@dataclasses.dataclass(frozen=True)
class LoadedModels:
    """The models of a workdir that classify an image, and their preprocessing.

    Attributes:
      models: the student, then its teacher if there is one.
      class_names: in the order of the labels.
      image_size: side of the input images in pixels.
      imagenet_crop: whether the input is 224/256 of an image's centre square.
    """

    models: tuple[CalibratedModel, ...]
    class_names: tuple[str, ...]
    image_size: int
    imagenet_crop: bool


def load_models(
    workdir: Path, method: str | None = None, paths: DataPaths = UNMOVED
) -> LoadedModels:
    """Reads a student and its teacher from a workdir, and calibrates them.

    The temperatures are fitted on the validation split, or without one on the same half of the test
    split as in the report. They are stored in the workdir with a digest of the network's variables,
    so that later calls do not need the data. A network whose temperature cannot be fitted is not
    calibrated, and stderr says so.

    Args:
      workdir: of an experiment.
      method: of the student, or its folder in the workdir; None: the last student of the config
        that has a checkpoint.
      paths: where the data are now, if they were moved.

    Raises:
      UserError: if the student cannot be read, or its images are not square.
    """
    config = read_config(workdir)
    networks = [restore_student(workdir, config, method)]
    data = networks[0].data
    assert data is not None, "`restore` returns networks with their data"
    height, width, _ = data.image_shape
    if height != width:
        folder = workdir / networks[0].name
        raise UserError(
            f"{folder} was trained on images of {height}x{width}, and image files are cropped to "
            f"squares; classify arrays in Python: amdjax.load_run({str(folder)!r}).logits(images)"
        )
    if not networks[0].is_teacher:
        try:
            networks.append(_teacher_of(networks[0], workdir, config, data))
        except UserError as error:
            note(f"without a teacher: {error}")
    models = calibrate(networks, workdir, run_data(config.data, networks[0].settings, paths), data)
    return LoadedModels(
        models=tuple(models),
        class_names=data.class_names,
        image_size=data.image_shape[0],
        imagenet_crop=networks[0].imagenet_crop,
    )


def _teacher_of(
    student: TrainedModel, workdir: Path, config: ml_collections.ConfigDict, data: Fingerprint
) -> TrainedModel:
    """Returns the teacher that a student learned from, or the last command's if it had none.

    Raises:
      UserError: if it cannot be read, or is not the one that the student learned from.
    """
    learned = student.settings.get("teacher", {})
    if learned.get("checkpoint") == "":  # trained in the workdir, whatever a later command gives
        teacher = restore(workdir / student.teacher, len(data.class_names))
    elif gives_network(config) and student.teacher == TEACHER:
        teacher = restore_given_teacher(config, data)
    elif config.teacher.outputs and student.teacher == TEACHER:
        raise UserError(f"config.teacher.outputs={config.teacher.outputs} has no network")
    else:
        teacher = restore(workdir / student.teacher, len(data.class_names))
    if not learned_from(student, teacher, workdir):
        raise UserError(
            f"the teacher that {student.name} learned from is neither in the workdir nor given by "
            "its last command"
        )
    return teacher
