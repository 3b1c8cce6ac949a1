"""Your own images: train/CLASS/* and test/CLASS/*, or CLASS/*, or labels.csv in one folder.

Command: amdjax --config=folder.py --config.data.folder=PATH --workdir=runs/folder
Images larger than 64x64: see docs/datasets.md.
"""

import ml_collections

from amdjax.configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe: pad, crop and flip, and the schedule of Tiny-ImageNet."""
    config = default.get_config()
    config.methods = ("scratch", "kd", "amd_gl")
    config.data.name = "folder"
    config.data.image_size = 64
    config.augment.mean = (0.485, 0.456, 0.406)
    config.augment.std = (0.229, 0.224, 0.225)
    config.augment.padding = 2
    config.augment.flip = True
    config.epochs = 100
    config.optim.boundaries = (30, 60, 90)
    config.optim.factor = 0.1
    return config
