"""CIFAR-10 with the angular-margin contrastive loss: CE, CE + Euclidean, CE + AMC. No teacher.

Paper: Choi, Som & Turaga, AMC-Loss, CVPR workshops 2020 (arXiv 2004.09805). As in its published
code: Adam with ramp-up and ramp-down, the contrastive weight ramped up from zero, pairs labelled
with the network's own predictions, images reflect-padded by 2 and cropped, not mirrored.
Command: python -m amdjax.main --config=configs/amc_cifar10.py --workdir=runs/amc_cifar10
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe, with the paper's weight of 0.1 (its code ends at 10)."""
    config = default.get_config()
    config.methods = ("scratch", "contrastive", "amc")
    config.augment.padding = 2
    config.augment.pad_mode = "reflect"
    config.optim.name = "adam"
    config.optim.learning_rate = 0.003
    config.optim.boundaries = ()
    config.optim.weight_decay = 0.0
    config.optim.ramp_up_epochs = 50.0
    config.optim.ramp_down_epochs = 30.0
    config.losses.ce.weight = 1.0
    for name in ("amc", "contrastive"):
        config.losses[name].ramp_up_epochs = 50.0
        config.losses[name].pair_labels = "predicted"
    return config
