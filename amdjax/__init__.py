"""Angular-margin distillation and angular-margin contrastive learning in JAX and Flax.

The losses are functions of arrays (`amdjax.losses`), the networks linen modules (`create_model`).
A whole experiment is `run(config, workdir)`; the parts of it are `plan_runs`, `load_dataset` and
`build_trainer`, and `load_run` reads a trained network back. The `register_*` functions add losses,
methods, networks, data sets, optimisers, augmentations and trackers from modules outside the
package.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from amdjax import losses, metrics, models
    from amdjax.data import load_dataset, register_dataset
    from amdjax.data.policies import register_augmentation
    from amdjax.experiment import plan_runs
    from amdjax.losses import register_loss
    from amdjax.methods import register_method
    from amdjax.models import (
        create_model,
        import_torch_state_dict,
        init_variables,
        register_model,
    )
    from amdjax.trained import load_run
    from amdjax.training.optimizer import register_optimizer
    from amdjax.training.run import run
    from amdjax.training.trackers import register_tracker
    from amdjax.training.trainer import build_trainer

# Imported when they are first used: whoever wants a loss does not wait for the data pipeline.
_MODULES = {
    "build_trainer": "training.trainer",
    "create_model": "models",
    "import_torch_state_dict": "models",
    "init_variables": "models",
    "load_dataset": "data",
    "load_run": "trained",
    "plan_runs": "experiment",
    "register_augmentation": "data.policies",
    "register_dataset": "data",
    "register_loss": "losses",
    "register_method": "methods",
    "register_model": "models",
    "register_optimizer": "training.optimizer",
    "register_tracker": "training.trackers",
    "run": "training.run",
}
_PACKAGES = ("losses", "metrics", "models")

__all__ = [
    "__version__",
    "build_trainer",
    "create_model",
    "import_torch_state_dict",
    "init_variables",
    "load_dataset",
    "load_run",
    "losses",
    "metrics",
    "models",
    "plan_runs",
    "register_augmentation",
    "register_dataset",
    "register_loss",
    "register_method",
    "register_model",
    "register_optimizer",
    "register_tracker",
    "run",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name in _PACKAGES:
        return importlib.import_module(f"amdjax.{name}")
    if name in _MODULES:
        return getattr(importlib.import_module(f"amdjax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'amdjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names."""
    return sorted(__all__)
