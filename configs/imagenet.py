"""ImageNet: ResNet-34 -> ResNet-18.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481; its published code uses torchvision's
ResNet-34 as the teacher and a batch of 256. The student, the schedule, weight decay, the weight of
the AM loss and its layers (stage1 to stage3) are assumed.
Command: amdjax --config=imagenet.py --config.teacher.checkpoint=resnet34 --workdir=runs/imagenet,
where resnet34 is a folder with torchvision's weights; docs/recipes.md says where they come from.
"""

import ml_collections

from amdjax.configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe: random-resized crops of 224 pixels, mirrored."""
    config = default.get_config()
    config.methods = ("amd_g", "amd_gl")
    config.teacher.name = "resnet34"
    config.student.name = "resnet18"
    config.data.name = "imagenet"
    config.data.image_size = 224
    config.data.random_resized_crop = True
    config.augment.mean = (0.485, 0.456, 0.406)
    config.augment.std = (0.229, 0.224, 0.225)
    config.augment.flip = True
    config.batch_size = 256
    config.epochs = 100
    config.optim.boundaries = (30, 60, 90)
    config.optim.factor = 0.1
    config.losses.ce.weight = 1.0
    config.losses.kd.weight = 1.0
    return config
