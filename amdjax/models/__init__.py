"""The networks: every one returns `Outputs`."""

from amdjax.models.layers import BatchNorm, Outputs
from amdjax.models.registry import MODELS, create_model, init_variables
from amdjax.models.torch_import import import_torch_state_dict

__all__ = [
    "MODELS",
    "BatchNorm",
    "Outputs",
    "create_model",
    "import_torch_state_dict",
    "init_variables",
]
