"""Weights that students start from in place of random ones: `config.init_from`."""

import dataclasses

import jax
import ml_collections
import numpy as np

from amdjax.checkpoint import read_state
from amdjax.checkpoint_files import is_checkpoint, newest_checkpoint
from amdjax.data import Dataset
from amdjax.data.fingerprint import check_classes
from amdjax.errors import UserError
from amdjax.losses.objective import LossVariables
from amdjax.models import canonical_model_name
from amdjax.run_description import read_run
from amdjax.weight_files import read_weights
from amdjax.weight_sources import check_variables, find_run, find_source, find_weights

_SETTING = "config.init_from"


@dataclasses.dataclass(frozen=True)
class InitialState:
    """The variables of a trained network, from which others start.

    Attributes:
      variables: {"params": ..., "batch_stats": ...}.
      ema: their moving averages; {} where the training had none.
      loss_variables: of the losses of that training.
      step: of that training; 0 for weights from elsewhere.
    """

    variables: dict
    ema: dict
    loss_variables: LossVariables
    step: int

    def loss_variables_for(self, drawn: LossVariables) -> LossVariables:
        """Returns the variables of the losses of a new training.

        Args:
          drawn: its random ones, which losses keep that have no variables here, or others.
        """
        saved = self.loss_variables
        names = {name for collection in drawn.values() for name in collection}
        matching = {
            name
            for name in names
            if all(
                _shapes(trees.get(name)) == _shapes((saved.get(collection) or {}).get(name))
                for collection, trees in drawn.items()
            )
        }
        return {
            collection: {
                name: _cast(saved[collection][name], tree) if name in matching else tree
                for name, tree in trees.items()
            }
            for collection, trees in drawn.items()
        }


def _shapes(tree: dict | None) -> object:
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def _cast(saved: dict, drawn: dict) -> dict:
    """Returns saved arrays in the dtypes of those that are drawn, which may be of a new version."""
    return jax.tree.map(lambda one, other: np.asarray(one, other.dtype), saved, drawn)


def load_initial(config: ml_collections.ConfigDict, dataset: Dataset) -> InitialState:
    """Reads what `config.init_from` names.

    Args:
      config: of the experiment.
      dataset: of the students.

    Raises:
      UserError: if there are no weights, or they are damaged, of another network than
        `config.student.name` or of other classes.
    """
    path, model = config.init_from, canonical_model_name(config.student.name)
    source = find_source(path, _SETTING)
    weights = find_weights(source)
    if weights is not None:
        variables = read_weights(weights, model)
        initial = InitialState(variables, {}, {"params": {}, "state": {}}, 0)
    else:
        folder = find_run(source)
        if folder is None or not is_checkpoint(newest_checkpoint(source)):
            raise UserError(f"{_SETTING}: {path} has no checkpoint")
        run = read_run(folder)
        if run.model != model:
            raise UserError(
                f"{_SETTING}: {path} has the network {run.model}, and config.student.name is "
                f"{model}"
            )
        check_classes(run.data, dataset.fingerprint, f"{_SETTING}: {path}")
        state = read_state(source)
        variables = {key: state[key] for key in ("params", "batch_stats")}
        initial = InitialState(
            variables, state["ema"] or {}, state["loss_variables"], int(state["step"])
        )
    check_variables(variables, model, dataset.num_classes, source, dataset.image_shape)
    return initial
