"""Registrations that end with the test that makes them."""

import contextlib
import sys
from collections.abc import Iterator
from unittest.mock import patch

from amdjax import registry
from amdjax.data.policies import AUGMENTATIONS
from amdjax.data.registry import DATASETS
from amdjax.losses import LOSSES
from amdjax.methods import METHODS
from amdjax.models import MODELS
from amdjax.training.optimizer import OPTIMIZERS
from amdjax.training.trackers import TRACKERS

REGISTRIES = (
    *(LOSSES, METHODS, MODELS, DATASETS, OPTIMIZERS, AUGMENTATIONS, TRACKERS),
    registry._ORIGINS,
)


@contextlib.contextmanager
def temporary_registrations() -> Iterator[None]:
    """Restores the registries and `sys.path`, and forgets the modules that registered something."""
    path = list(sys.path)
    with contextlib.ExitStack() as stack:
        for entries in REGISTRIES:
            stack.enter_context(patch.dict(entries))
        yield
        files = registry.registering_files()
    sys.path[:] = path
    for name, module in sys.modules.copy().items():
        if getattr(module, "__file__", None) in files:
            del sys.modules[name]
