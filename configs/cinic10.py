"""CINIC-10, set-ups (a), (b), (d) of the AMD paper.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=cinic10.py:a --workdir=runs/cinic10-a
Published test accuracy (%), read off Figures 8 and 13: (a) KD 74.3, AMD(g) 75.0, AMD(g+l) 75.2;
(b) KD 74.7, 75.1, 75.2; (d) AMD(g) 74.9, AMD(g+l) 75.1. The pair of (c) is not known.
"""

import ml_collections

from amdjax.configs import cifar10, default

SETUPS = {name: cifar10.SETUPS[name] for name in ("a", "b", "d")}


def get_config(setup: str = "a") -> ml_collections.ConfigDict:
    """Returns the recipe of CIFAR-10 with the weights and temperature of CINIC-10."""
    config = default.get_config()
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "cinic10.py")
    config.methods = ("scratch", "kd", "amd_g", "amd_gl")
    config.data.name = "cinic10"
    config.losses.ce.weight = 0.4
    config.losses.kd.weight = 0.6
    config.losses.kd.temperature = 16.0
    return config
