"""The margin of the AM loss, Figure 9 of the AMD paper: CIFAR-10 and CINIC-10.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=figure9.py:cifar10-a
Published test accuracy (%) of AMD(g), read off the figure, margin 1.1 / 1.35 / 1.5 / 2.0:
cifar10-a  86.0 / 86.3 / 86.2 / 85.4     cifar10-b  85.8 / 86.0 / 85.9 / 85.3
cinic10-a  75.0 / 75.0 / 75.1 / 74.7     cinic10-b  74.9 / 75.2 / 75.0 / 74.8
"""

import ml_collections

from amdjax.configs import default, figure8

SETUPS = figure8.SETUPS


def get_config(setup: str = "cifar10-a") -> ml_collections.ConfigDict:
    """Returns a recipe with KD and a sweep over the margin of AMD(g)."""
    default.choose(SETUPS, setup, "figure9.py")  # an error names this recipe
    config = figure8.get_config(setup)
    config.sweep.key = "losses.am.margin"
    config.sweep.choices = (1.1, 1.35, 1.5, 2.0)
    return config
