"""CIFAR-10 between families, Table 9 of the AMD paper.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=table9.py:vgg13-resnet20
Published test accuracy (%), KD / AT / SP / AMD(g) / AMD(g+l):
wrn_28_1-vgg8          86.93 / 87.16 / 87.29 / 87.43 / 87.56
wrn_16_8-vgg8          86.74 / 87.29 / 86.82 / 87.61 / 87.63
vgg13-resnet20         85.39 / 85.63 / 85.00 / 86.18 / 86.41
mobilenet_v2-resnet26  87.74 / 88.61 / 85.78 / 88.70 / 88.42
"""

import ml_collections

from amdjax.configs import cifar10, default

SETUPS = {
    f"{teacher}-{student}": (teacher, student)
    for teacher, student in (
        ("wrn_28_1", "vgg8"),
        ("wrn_16_8", "vgg8"),
        ("vgg13", "resnet20"),
        ("mobilenet_v2", "resnet26"),
    )
}


def get_config(setup: str = "wrn_28_1-vgg8") -> ml_collections.ConfigDict:
    """Returns the recipe of CIFAR-10 with the pair and the table's methods."""
    config = cifar10.get_config()
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "table9.py")
    config.methods = ("scratch", "kd", "at", "sp", "amd_g", "amd_gl")
    return config
