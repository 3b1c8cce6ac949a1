"""CIFAR-10, set-up (a) of the AMD paper: WRN-16-3 teaches WRN-16-1, no augmentation.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: python -m amdjax.main --config=configs/cifar10.py --workdir=runs/cifar10
Published test accuracy (%), read off Figures 5 and 14: student alone 84.1, KD 85.3, AMD(g) 86.3,
AMD(g+l) 86.4.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe: the defaults, with the paper's baselines beside AMD."""
    config = default.get_config()
    config.methods = ("scratch", "kd", "amd_g", "amd_gl")
    return config
