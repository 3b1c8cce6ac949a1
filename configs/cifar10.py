"""CIFAR-10, set-ups (a) to (d) of the AMD paper, without augmentation.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=cifar10.py:a --workdir=runs/cifar10-a
Set-ups: (a) WRN-16-3 -> WRN-16-1; (b) WRN-28-1 -> WRN-16-1; (c) WRN-16-3 -> WRN-28-1, a pair
that is inferred from its accuracies; (d) ResNet-44 -> WRN-16-1.
Published test accuracy (%), read off Figures 5, 13 and 14: WRN-16-1 without a
teacher 84.1; (a) KD 85.3, AMD(g) 86.3, AMD(g+l) 86.4; (b) 85.5, 86.0, 86.1; (c) AMD(g) 87.1,
AMD(g+l) 87.4; (d) 86.2, 86.3.
"""

import ml_collections

from amdjax.configs import default

SETUPS = {
    "a": ("wrn_16_3", "wrn_16_1"),
    "b": ("wrn_28_1", "wrn_16_1"),
    "c": ("wrn_16_3", "wrn_28_1"),
    "d": ("resnet44", "wrn_16_1"),
}


def get_config(setup: str = "a") -> ml_collections.ConfigDict:
    """Returns the recipe: a student without a teacher, KD and AMD."""
    config = default.get_config()
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "cifar10.py")
    config.methods = ("scratch", "kd", "amd_g", "amd_gl")
    return config
