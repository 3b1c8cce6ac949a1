"""A short training on CIFAR-10, CINIC-10 or Tiny-ImageNet: 20 epochs with Adam.

Not from a paper: for a first comparison of methods, in 20 epochs in place of 200, or of 100 on
Tiny-ImageNet. Batches of 64 and a constant learning rate of 5e-4, without weight decay; everything
else, such as the pair of networks (WRN-16-3 -> WRN-16-1), the augmentation and the weights of the
losses, is that of set-up (a) of the data set's recipe.
Command: amdjax --config=short.py:cinic10 --workdir=runs/short-cinic10
"""

import ml_collections

from amdjax.configs import cifar10, cinic10, default, tiny_imagenet

SETUPS = {"cifar10": cifar10, "cinic10": cinic10, "tiny_imagenet": tiny_imagenet}


def get_config(setup: str = "cifar10") -> ml_collections.ConfigDict:
    """Returns a data set's recipe with the short training."""
    config = default.choose(SETUPS, setup, "short.py").get_config()
    config.methods = ("scratch", "kd", "amd_g", "amd_gl")
    config.batch_size = 64
    config.epochs = 20
    config.optim.name = "adam"
    config.optim.learning_rate = 5e-4
    config.optim.boundaries = ()
    config.optim.weight_decay = 0.0
    return config
