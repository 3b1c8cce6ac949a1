"""The AMC paper: CE, CE + Euclidean and CE + AMC on four data sets. No teacher.

Paper: Choi, Som & Turaga, AMC-Loss, CVPR workshops 2020 (arXiv 2004.09805). As in its published
code: Adam with ramp-up and ramp-down, the contrastive weight ramped up from zero, pairs labelled
with the network's predictions, pixels divided by 256, Gaussian noise of 0.15, dropout of 0.5,
images reflect-padded by 2 and cropped, not mirrored, evaluation of averaged variables (0.999).
Command: amdjax --config=amc.py:svhn_cropped --workdir=runs/amc-svhn
The contrastive weight ends at the paper's 0.1; in the code it ends at 10. The paper's tables are
not available, nor are its margins for each data set: 0.5 (AMC) is that of the code, which has no
Euclidean loss; 1.0 is assumed.
"""

import ml_collections

from amdjax.configs import default

SETUPS = {name: name for name in ("cifar10", "cifar100", "svhn_cropped", "mnist")}


def get_config(setup: str = "cifar10") -> ml_collections.ConfigDict:
    """Returns the recipe."""
    config = default.get_config()
    config.methods = ("scratch", "contrastive", "amc")
    config.student.name = "amc_net"
    config.data.name = default.choose(SETUPS, setup, "amc.py")
    config.augment.mean = (0.0, 0.0, 0.0)
    config.augment.std = (256 / 255,) * 3
    config.augment.padding = 2
    config.augment.pad_mode = "reflect"
    config.augment.noise = 0.15
    config.optim.name = "adam"
    config.optim.learning_rate = 0.003
    config.optim.boundaries = ()
    config.optim.weight_decay = 0.0
    config.optim.ramp_up_epochs = 50.0
    config.optim.ramp_down_epochs = 30.0
    config.ema_decay = 0.999
    config.losses.ce.weight = 1.0
    for name in ("amc", "contrastive"):
        config.losses[name].ramp_up_epochs = 50.0
        config.losses[name].pair_labels = "predicted"
    return config
