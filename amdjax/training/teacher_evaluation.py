"""The evaluation of a teacher that the config gives, before students learn from it."""

import functools

import ml_collections
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.checkpoint_files import read_evaluation, read_origin
from amdjax.config import compute_dtype, forward_batch_size
from amdjax.data import Dataset
from amdjax.errors import warn
from amdjax.files import local_path
from amdjax.models import Ensemble, Model, count_parameters, member_variables
from amdjax.predictor import create_predictor
from amdjax.pretrained import (
    GivenTeacher,
    TeacherSource,
    create_teacher,
    teacher_name,
    teacher_sources,
)
from amdjax.teacher_outputs.output_warnings import low_accuracy_warnings
from amdjax.training import results
from amdjax.training.evaluation import evaluate


def evaluate_given_teacher(
    config: ml_collections.ConfigDict, teacher: GivenTeacher, dataset: Dataset, mesh: Mesh
) -> tuple[dict, results.RunResult]:
    """Copies the teacher that the config gives to all devices, and prints its accuracy.

    Those of the members of an ensemble are printed, too.

    Args:
      config: of the experiment.
      teacher: from `load_given_teacher`.
      dataset: of the experiment.
      mesh: of all devices.

    Returns:
      Its variables, replicated, and its result.
    """
    sources = teacher_sources(config.teacher)
    variables = distributed.replicate(teacher.variables, mesh)
    model = create_teacher(config.teacher, dataset.num_classes, compute_dtype(config))
    origin: dict = {}

    def known_accuracy(source: TeacherSource) -> float | None:
        return read_evaluation(local_path(source.checkpoint, "config.teacher")).get("accuracy")

    evaluate_one = functools.partial(_evaluate_teacher, config, dataset, mesh)
    if isinstance(model, Ensemble):
        for index, (source, member) in enumerate(zip(sources, model.members, strict=True)):
            subject, known = f"teacher {source.checkpoint}", known_accuracy(source)
            evaluate_one(member, member_variables(variables, index), subject, known)
        subject, known = f"mean of the {len(sources)} teachers", None
    else:
        subject, known = f"teacher {sources[0].checkpoint}", known_accuracy(sources[0])
        origin = read_origin(local_path(sources[0].checkpoint, "config.teacher"))
    evaluation = evaluate_one(model, variables, subject, known)
    return variables, results.RunResult(
        teacher_name(config.teacher),
        count_parameters(variables),
        {0: evaluation},
        results.origin_of(None, origin),
    )


def _evaluate_teacher(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    mesh: Mesh,
    model: Model,
    variables: dict,
    subject: str,
    known: float | None,
) -> dict[str, float]:
    """Evaluates a teacher that was trained before, and prints its accuracy.

    Args:
      config: of the experiment.
      dataset: of the experiment.
      mesh: of all devices.
      model: the network.
      variables: its variables, replicated.
      subject: of the line that is printed.
      known: accuracy of its checkpoint; None if that is not known.

    Returns:
      The values on the test split, with `VALIDATION_ACCURACY` where there is a validation split.
    """
    predictor, batch_size = create_predictor(model, config.augment, {}), forward_batch_size(config)
    evaluation = evaluate(predictor, variables, dataset.test, batch_size, mesh)
    accuracy = evaluation["accuracy"]
    if dataset.validation is not None:
        held_out = evaluate(predictor, variables, dataset.validation, batch_size, mesh)
        evaluation[results.VALIDATION_ACCURACY] = accuracy = held_out["accuracy"]
    if distributed.is_primary():
        print(
            f"{subject}: accuracy on the {dataset.selection_split} split {accuracy:.2%}",
            flush=True,
        )
        warn(*low_accuracy_warnings(accuracy, dataset.num_classes, known))
    return evaluation
