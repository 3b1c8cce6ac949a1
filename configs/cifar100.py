"""CIFAR-100, the thirteen pairs of RepDistiller's tables.

Paper: Tian, Krishnan & Isola, Contrastive representation distillation, ICLR 2020, whose repository
is RepDistiller.
Command: python -m amdjax.main --config=configs/cifar100.py:wrn_40_2-wrn_16_2
Trained teacher: --config.teacher.checkpoint=FILE or the folder of a finished run (runs/x/teacher).
Published test accuracy (%) of wrn_40_2-wrn_16_2, from RepDistiller's README: teacher 75.61, student
without a teacher 73.26, KD 74.92, AT 74.08, SP 73.83, VID 74.11, RKD 73.35, CC 73.56, PKT 74.54.

Learning rate: 0.05, for MobileNet and ShuffleNet students 0.01, which a teacher trained in the same
run then has too. To train that teacher at 0.05, as published, train it with another set-up and pass
the folder of its run.
Losses: KD, AT, SP, VID, RKD, CC and PKT have RepDistiller's settings, AMD those of its paper. Two
differ from the defaults: AT has the weight 3000 of the mean over three layers, which is 1000 of
their sum, and SP reads the last of the three stages alone.
Layers: feature losses compare layers of the same name, "stage1" to "stage3". RepDistiller's AT
compares four stages in pairs of VGG, ResNet-50 and MobileNet ("stage2" to "stage5" of a VGG, else
"stage1" to "stage4"), and "stage2" to "stage4" of a ShuffleNet with "stage1" to "stage3" of its
teacher. Its SP compares the last stages: "stage5" of a VGG, "stage4" of ResNet-50, MobileNet and
ShuffleNet, "stage3" of the others.
"""

import ml_collections

from amdjax.configs import default

SAME_FAMILY = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
)
CROSS_FAMILY = (
    ("vgg13", "mobilenet_v2_half"),
    ("cifar_resnet50", "mobilenet_v2_half"),
    ("cifar_resnet50", "vgg8"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet32x4", "shufflenet_v2"),
    ("wrn_40_2", "shufflenet_v1"),
)
SETUPS = {
    f"{teacher}-{student}": (teacher, student) for teacher, student in SAME_FAMILY + CROSS_FAMILY
}


def get_config(setup: str = "wrn_40_2-wrn_16_2") -> ml_collections.ConfigDict:
    """Returns RepDistiller's recipe with its baselines and AMD."""
    config = default.get_config()
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "cifar100.py")
    config.methods = ("scratch", "kd", "at", "sp", "amd_g", "amd_gl")
    config.data.name = "cifar100"
    config.augment.mean = (0.5071, 0.4867, 0.4408)
    config.augment.std = (0.2675, 0.2565, 0.2761)
    config.augment.padding = 4
    config.augment.flip = True
    config.batch_size = 64
    config.epochs = 240
    small_rate = config.student.name.startswith(("mobilenet", "shufflenet"))
    config.optim.learning_rate = 0.01 if small_rate else 0.05
    config.optim.boundaries = (150, 180, 210)
    config.optim.factor = 0.1
    config.optim.weight_decay = 5e-4
    config.losses.at.weight = 3000.0
    config.losses.sp.features = ("stage3",)
    return config
