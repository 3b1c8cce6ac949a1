"""CIFAR-10 with the angular-margin contrastive loss: `amc.py:cifar10` by a shorter name.

Command: amdjax --config=amc_cifar10.py --workdir=runs/amc_cifar10
"""

import ml_collections

from amdjax.configs import amc


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe."""
    return amc.get_config("cifar10")
