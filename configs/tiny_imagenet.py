"""Tiny-ImageNet, set-ups (a) and (d) of the AMD paper, 64x64 images.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481. Images are padded to 68x68, cropped to 64x64
and mirrored. The weight of the AM loss, weight decay, batch and schedule are assumed.
Command: amdjax --config=tiny_imagenet.py --workdir=runs/tiny_imagenet
Set-ups: (a) WRN-16-3 -> WRN-16-1, the default; (d) ResNet-44 -> WRN-16-1. The other pairs
are not known.
Published test accuracy (%), read off Figure 13: (a) AMD(g) 50.3, AMD(g+l) 49.9; (d) 49.9, 50.1.
"""

import ml_collections

from amdjax.configs import cifar10, default

SETUPS = {name: cifar10.SETUPS[name] for name in ("a", "d")}


def get_config(setup: str = "a") -> ml_collections.ConfigDict:
    """Returns the recipe."""
    config = default.get_config()
    config.methods = ("amd_g", "amd_gl")
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "tiny_imagenet.py")
    config.data.name = "tiny_imagenet"
    # Statistics of the training images.
    config.augment.mean = (0.480, 0.448, 0.398)
    config.augment.std = (0.277, 0.269, 0.282)
    config.augment.padding = 2
    config.augment.flip = True
    config.batch_size = 256
    config.epochs = 100
    config.optim.boundaries = (30, 60, 90)
    config.optim.factor = 0.1
    config.losses.ce.weight = 0.7
    config.losses.kd.weight = 0.3
    config.losses.kd.temperature = 16.0
    return config
