"""The weight of the AM loss, Figure 8 of the AMD paper: CIFAR-10 and CINIC-10.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=figure8.py:cifar10-a
Published test accuracy (%), read off the figure: KD cifar10-a 85.3, -b 85.5, cinic10-a 74.3, -b
74.7; AMD(g), weight 1000 / 3000 / 5000 / 7000 / 9000:
cifar10-a  85.3 / 86.0 / 86.3 / 85.9 / 85.7     cifar10-b  85.4 / 85.9 / 86.0 / 86.0 / 85.8
cinic10-a  74.6 / 74.7 / 75.0 / 74.9 / 74.6     cinic10-b  74.7 / 75.2 / 75.2 / 75.0 / 74.8
"""

import ml_collections

from amdjax.configs import cifar10, cinic10, default

SETUPS = {
    f"{name}-{setup}": (recipe, setup)
    for name, recipe in (("cifar10", cifar10), ("cinic10", cinic10))
    for setup in ("a", "b")
}


def get_config(setup: str = "cifar10-a") -> ml_collections.ConfigDict:
    """Returns a recipe with KD and a sweep over the weight of AMD(g)."""
    recipe, of_recipe = default.choose(SETUPS, setup, "figure8.py")
    config = recipe.get_config(of_recipe)
    config.methods = ("kd", "amd_g")
    config.sweep.key = "losses.am.weight"
    config.sweep.choices = (1000.0, 3000.0, 5000.0, 7000.0, 9000.0)
    return config
