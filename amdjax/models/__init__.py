"""Model families; every model returns `Outputs`."""

from amdjax.models.layers import BatchNorm, Model, Outputs
from amdjax.models.registry import MODELS, create_model
from amdjax.models.torch_import import import_torch_state_dict
from amdjax.models.variables import (
    check_shapes,
    count_parameters,
    init_variables,
    variable_shapes,
)

__all__ = [
    "MODELS",
    "BatchNorm",
    "Model",
    "Outputs",
    "check_shapes",
    "count_parameters",
    "create_model",
    "import_torch_state_dict",
    "init_variables",
    "variable_shapes",
]
