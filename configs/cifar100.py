"""CIFAR-100, the thirteen pairs of RepDistiller's tables.

Paper: Tian, Krishnan & Isola, Contrastive representation distillation, ICLR 2020, whose repository
is RepDistiller.
Command: amdjax --config=cifar100.py:wrn_40_2-wrn_16_2
Trained teacher: --config.teacher.checkpoint=FILE or the folder of a finished run (runs/x/teacher).
Published test accuracy (%) of wrn_40_2-wrn_16_2, from RepDistiller's README: teacher 75.61, student
without a teacher 73.26, KD 74.92, AT 74.08, SP 73.83, VID 74.11, RKD 73.35, CC 73.56, PKT 74.54.

Learning rate: 0.05, for MobileNet and ShuffleNet students 0.01; teachers always have 0.05.
Losses: KD, FitNet, AT, SP, VID, NST, FT, FSP, AB, RKD, CC, PKT and CRD have the settings of
RepDistiller, DKD the weights of mdistiller for eleven pairs, ReviewKD those of its repository for
eight pairs (the others have 5), which has batches of 128, the learning rate 0.1 and Nesterov
momentum, WKD those of its repository for two pairs (the others have those of
resnet32x4-resnet8x4), and AMD those of its paper. AT, VID and NST are sums over the layers there
and means here, so their weights are multiplied by the number of layers. FitNet, AB, FT and FSP are
trained jointly with cross-entropy.
MLKD is published with the learning rate 0.025 in place of 0.05 (--config.optim.learning_rate=0.025)
and, for MobileNet and ShuffleNet students, 480 epochs (resnet32x4: 960).
Layers: those of RepDistiller, which are "stage2" to "stage5" of a VGG, "stage1" to "stage4" of
ResNet-50 and MobileNet, "stage2" to "stage4" of a ShuffleNet, and "stage1" to "stage3" of the
others; FitNet compares the second of them, SP, FT and WKD-F the last, FSP also the layer before
them. The other losses, AMD among them, compare layers of the same name, "stage1" to "stage3".
"""

from typing import Any

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
# Layers by the beginning of the network's name.
LAYERS = {
    "vgg": ("stage2", "stage3", "stage4", "stage5"),
    "cifar_resnet50": ("stage1", "stage2", "stage3", "stage4"),
    "mobilenet_v2_half": ("stage1", "stage2", "stage3", "stage4"),
    "shufflenet": ("stage2", "stage3", "stage4"),
    "": ("stage1", "stage2", "stage3"),
}
# Weight of the other classes in DKD by the beginning of the set-up's name.
DKD_WEIGHTS = {
    "wrn_40_2-shufflenet": 8.0,
    "wrn_40_2": 6.0,
    "vgg13": 6.0,
    "resnet56": 2.0,
    "resnet110": 2.0,
    "": 8.0,
}
# Weight of ReviewKD, likewise.
REVIEWKD_WEIGHTS = {
    "resnet32x4-shufflenet_v2": 8.0,
    "resnet56-resnet20": 0.6,
    "resnet110-resnet32": 1.0,
    "": 5.0,
}
SETUPS = {
    f"{teacher}-{student}": (teacher, student) for teacher, student in SAME_FAMILY + CROSS_FAMILY
}


def _by_prefix(table: dict[str, Any], name: str) -> Any:
    return next(value for prefix, value in table.items() if name.startswith(prefix))


def _first_layer(name: str) -> str:
    """Returns the layer that FSP compares before the others: of a VGG its whole first block."""
    return "stage1" if name.startswith("vgg") else "stem"


def get_config(setup: str = "wrn_40_2-wrn_16_2") -> ml_collections.ConfigDict:
    """Returns RepDistiller's recipe: a student without a teacher, KD, AT, SP and AMD."""
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
    config.teacher.learning_rate = 0.05
    student, teacher = (
        _by_prefix(LAYERS, network.name) for network in (config.student, config.teacher)
    )
    losses, count = config.losses, len(student)
    for name, layers in (
        *((name, slice(None)) for name in ("at", "vid", "nst", "ab")),
        *((name, slice(-1, None)) for name in ("sp", "ft_factor", "wkd_f")),
        ("fitnet", slice(1, 2)),
    ):
        losses[name].features, losses[name].teacher_features = student[layers], teacher[layers]
    losses.fsp.features = (_first_layer(config.student.name), *student)
    losses.fsp.teacher_features = (_first_layer(config.teacher.name), *teacher)
    losses.at.weight, losses.vid.weight, losses.nst.weight = 1000.0 * count, count, 50.0 * count
    losses.fitnet.weight = 100.0
    losses.dkd.other_weight = _by_prefix(DKD_WEIGHTS, setup)
    losses.reviewkd.weight = _by_prefix(REVIEWKD_WEIGHTS, setup)
    losses.wkd_l.temperature, losses.wkd_l.gamma = 8.0, 600.0
    losses.wkd_f.weight, losses.wkd_f.ratio, losses.wkd_f.grid = 0.08, 4.0, 1
    if setup == "wrn_40_2-shufflenet_v1":
        losses.wkd_l.temperature, losses.wkd_l.gamma = 6.0, 200.0
        losses.wkd_f.weight, losses.wkd_f.ratio, losses.wkd_f.grid = 0.3, 3.0, 4
    return config
