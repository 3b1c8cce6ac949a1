"""The teacher of a run: a network, or outputs that were stored before."""

import ml_collections

from amdjax.config import compute_dtype
from amdjax.experiment import RunSpec
from amdjax.models import Model
from amdjax.pretrained import create_teacher
from amdjax.teacher_outputs.stored import StoredOutputs, open_outputs


def create_run_teacher(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    num_classes: int,
    axis_name: str | None = None,
) -> Model | StoredOutputs | None:
    """Creates what gives a run the outputs of its teacher.

    Args:
      config: of the experiment.
      spec: of the run.
      num_classes: of the data set.
      axis_name: as for `create_model`.

    Returns:
      A network without variables, or the outputs of `config.teacher.outputs`; None for a run
      without a teacher.

    Raises:
      UserError: if the outputs cannot be read or are of another number of classes.
    """
    if spec.teacher is None:
        return None
    if config.teacher.outputs:
        outputs = open_outputs(config.teacher.outputs)
        outputs.check_classes(num_classes)
        return outputs
    return create_teacher(config.teacher, num_classes, compute_dtype(config), axis_name)
