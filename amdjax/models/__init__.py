"""Model families; every model returns `Outputs`."""

from amdjax.models.ensemble import Ensemble, join_variables, map_sizes, member_variables
from amdjax.models.layers import BatchNorm, Model, Outputs
from amdjax.models.registry import MODELS, canonical_model_name, create_model, register_model
from amdjax.models.torch_import import import_torch_state_dict, select_network
from amdjax.models.variables import (
    abstract_variables,
    check_variable_shapes,
    count_parameters,
    init_variables,
    variable_shapes,
    variables_digest,
)

__all__ = [
    "MODELS",
    "BatchNorm",
    "Ensemble",
    "Model",
    "Outputs",
    "abstract_variables",
    "canonical_model_name",
    "check_variable_shapes",
    "count_parameters",
    "create_model",
    "import_torch_state_dict",
    "init_variables",
    "join_variables",
    "map_sizes",
    "member_variables",
    "register_model",
    "select_network",
    "variable_shapes",
    "variables_digest",
]
