"""Tiny-ImageNet, set-up (a) of the AMD paper: WRN-16-3 teaches WRN-16-1 on 64x64 images.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481. Images are padded to 68x68, cropped to 64x64
and mirrored.
Command: python -m amdjax.main --config=configs/tiny_imagenet.py --workdir=runs/tiny_imagenet
Published test accuracy (%), read off Figure 13: AMD(g) 50.3, AMD(g+l) 49.9.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe."""
    config = default.get_config()
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
    for name in ("kd", "eskd"):
        config.losses[name].weight = 0.3
        config.losses[name].temperature = 16.0
    return config
