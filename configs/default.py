"""Every setting, with its default; a recipe imports this and changes what it must.

A recipe with several set-ups takes one after a colon: `--config=cifar10.py:b`. Any value can be
overridden on the command line: `--config.student.name=wrn_16_2`, `--config.losses.am.margin=1.5`,
`--config.methods=kd,amd_gl`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from amdjax.data.policies import default_augmentations
from amdjax.errors import unknown_name
from amdjax.imports import import_modules
from amdjax.losses import default_losses


def choose(setups: Mapping[str, Any], name: str, recipe: str) -> Any:
    """Returns a recipe's set-up by its name.

    Raises:
      UserError: listing the set-ups, if there is none of this name.
    """
    if name not in setups:
        raise unknown_name(f"set-up of {recipe}", name, setups)
    return setups[name]


def get_config(*, imports: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Returns the defaults: AMD(g+l) with the recipe of CIFAR-10.

    Args:
      imports: value of `config.imports`; the settings of the losses that these modules register are
        among the defaults.
    """
    import_modules(imports)
    config = ml_collections.ConfigDict()

    # Modules that register losses, methods, networks, data sets and the like, such as
    # "mylab.losses". Found as in an import statement, in the current folder and in the recipe's.
    config.imports = tuple(imports)

    # All random numbers (initial weights, order of the data, augmentation) are functions of it.
    config.seed = 0
    # Students to train, one after the other: names of amdjax/methods.py, or combinations such as
    # "kd+at".
    config.methods = ("amd_gl",)
    # Repeats every student with these seeds (the teacher's is `seed`); empty: once, with `seed`.
    config.seeds = ()
    # Trains the seeds of a method as one program; slower than one after the other where it was
    # measured: docs/performance.md.
    config.seeds_at_once = False

    # For each of several values of a loss's setting, repeats every method that uses it: for example
    # key "losses.am.margin" and choices (1.1, 1.35, 1.5).
    config.sweep = ml_collections.ConfigDict()
    config.sweep.key = ""
    config.sweep.choices = ()

    config.teacher = ml_collections.ConfigDict()
    config.teacher.name = "wrn_16_3"
    # Empty: train the teacher first. Else the folder of a finished run (runs/x/teacher), or
    # PyTorch weights as .npz, .safetensors or .pth, or a folder that was downloaded from the
    # Hugging Face Hub.
    config.teacher.checkpoint = ""
    # Or several teachers, each as for `checkpoint`; students learn from the mean of their logits
    # and from their joined features.
    config.teacher.ensemble = ()
    # Their networks; empty: as the folders of the runs say. Files of weights do not say.
    config.teacher.ensemble_models = ()
    config.teacher.ensemble_weights = ()  # of their outputs, divided by the sum; empty: equal ones
    # Or the outputs of any other teacher for the training images, an .npz or a folder of .npy that
    # `amdjax-teacher-outputs` writes: logits, embedding and attention maps, for images that are not
    # changed by more than flips.
    config.teacher.outputs = ""
    # Computes its outputs once for each training image, where that is exact, apart from rounding,
    # and saves time: not with crops, noise or mixed images, nor for losses that read more than
    # logits, embedding and attention maps, nor for more than another `data.memory_gib`. False: in
    # every step.
    config.teacher.cached = True
    config.teacher.early_fraction = 0.25  # of the epochs, after which the teacher of eskd stops
    config.teacher.learning_rate = 0.0  # of its training; 0: that of `optim`

    config.student = ml_collections.ConfigDict()
    config.student.name = "wrn_16_1"
    # Empty: random weights. Else the students start from those of a run, finished or stopped
    # (runs/x/kd), or of a file as for `teacher.checkpoint`; optimiser and schedule start at step 0.
    config.init_from = ""

    config.data = ml_collections.ConfigDict()
    config.data.name = "cifar10"  # amdjax --list shows all
    # Holds the prepared data and downloads/manual/; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
    config.data.data_dir = ""
    # With name "folder": holds train/CLASS/* and test/CLASS/*, or CLASS/*, or labels.csv.
    config.data.folder = ""
    # Fraction of the training images of each class to hold out: the network is evaluated on them
    # during training, the best one is chosen there, and the test split is evaluated at the end.
    # 0: the test split is used during training.
    config.data.validation = 0.0
    config.data.validation_seed = 0  # of the choice of these images
    # Or, with name "folder", the folder (or the value of the column split) that holds them: "val".
    config.data.validation_split = ""
    # Folder of images without labels, at any depth, on which the students learn from the teacher;
    # losses of labels are zero there. In addition to the labelled training images, or alone.
    config.data.unlabeled = ""
    config.data.unlabeled_only = False
    # Names of classes that are held out: no image of them is in the training, validation or test
    # split. The report evaluates their test images as unknown.
    config.data.unknown_classes = ()
    # Or evaluates these as unknown: the test split of another data set, or a folder of images.
    config.data.unknown = ""
    # Continues a run although images were added, removed or changed since it was started.
    config.data.accept_changes = False
    config.data.image_size = 0  # side in pixels; 0: as the data set has it
    # ImageNet's crops: a random part of each training image, a new one in each epoch.
    config.data.random_resized_crop = False
    # A split of at most this size is decoded once and kept in memory, a larger one is streamed.
    config.data.memory_gib = 4.0
    # A training split of at most this size is also kept in each accelerator's memory, and up to
    # `log_every_steps` steps are one program there; 0: every batch is sent by itself.
    config.data.device_gib = 2.0

    # Augmentation of training images, on the device. The statistics are of values from 0 to 1;
    # these are CIFAR-100's, which the papers' code uses for CIFAR-10 too.
    config.augment = ml_collections.ConfigDict()
    config.augment.mean = (0.507, 0.487, 0.441)
    config.augment.std = (0.267, 0.256, 0.276)
    config.augment.padding = 0  # pixels on each side before the random crop; 0: no crop
    config.augment.pad_mode = "zero"  # zero or reflect
    config.augment.flip = False  # left to right, with probability 1/2
    # none, randaugment, trivialaugment or one that you register; + joins several, in this order.
    config.augment.policy = "none"
    # As `policy`, for the second view of each image that mlkd compares with the first.
    config.augment.strong_policy = "randaugment"
    config.augment.update(default_augmentations())  # augment.randaugment.num_ops and the like
    # Strengths of random changes of brightness, contrast, saturation and hue; 0: none.
    config.augment.color_jitter = (0.0, 0.0, 0.0, 0.0)
    config.augment.noise = 0.0  # standard deviation of Gaussian noise on the normalised image
    config.augment.erasing = 0.0  # probability with which a random rectangle is erased

    # Mixing of example pairs in the students' training; teachers are trained without mixing.
    config.mix = ml_collections.ConfigDict()
    config.mix.name = "none"  # none, mixup, cutmix, moex
    config.mix.alpha = 0.2  # mixup, cutmix: lam, the image's weight, is from Beta(alpha, alpha)
    config.mix.probability = 1.0  # with which a batch is mixed
    config.mix.layer = "stem"  # moex: the layer whose feature moments are exchanged
    config.mix.moex_lam = 0.5  # moex: lam, the label weight of the image itself
    config.mix.teacher_sees_mixed = True  # False: the teacher's input is the unmixed image

    config.batch_size = 128  # of all devices together; an incomplete last batch is dropped
    # Parts in which the gradient of a batch is computed, one after the other, to save memory.
    config.accumulate = 1
    config.epochs = 200  # of each run, the teacher's too
    config.max_steps = 0  # ends each run early, for a trial; 0: no limit. May be raised later.

    config.optim = ml_collections.ConfigDict()
    config.optim.name = "sgd"  # amdjax --list shows all
    config.optim.learning_rate = 0.1
    config.optim.schedule = "step"  # step, cosine or linear
    config.optim.boundaries = (
        40,
        80,
        120,
        160,
    )  # step: epochs where `factor` scales the rate
    config.optim.factor = 0.2
    config.optim.end_learning_rate = 0.0  # cosine and linear: at the end
    config.optim.warmup_epochs = 0.0  # number of first epochs over which the rate rises linearly
    config.optim.momentum = 0.9  # sgd
    config.optim.nesterov = False  # sgd
    # Times the parameter: sgd and adam add it to the gradient, as in PyTorch; adamw subtracts it,
    # times the rate, from the parameter.
    config.optim.weight_decay = 1e-4
    config.optim.decay_norms_and_biases = True
    config.optim.ramp_up_epochs = 0.0  # rate times exp(-5 (1 - t)^2) at first; 0: none
    config.optim.ramp_down_epochs = 0.0  # number of last epochs over which the rate falls; 0: none
    config.optim.beta1 = 0.9  # adam, adamw
    config.optim.beta1_end = 0.5  # adam, adamw, at the end of the ramp-down
    config.optim.beta2 = 0.999  # adam, adamw
    config.optim.clip_norm = 0.0  # largest L2 norm of the whole gradient; 0: not clipped

    # Evaluates (and teaches with) exponential moving averages of the variables; 0: the variables.
    config.ema_decay = 0.0

    # Weight and other settings of every loss; config.methods decides which are used. The defaults
    # are those of amdjax/losses/, but for these; `amdjax --list` prints them, except those of the
    # schedule.
    config.losses = default_losses()
    config.losses.ce.weight = 0.1
    config.losses.kd.weight = 0.9
    config.losses.kd.temperature = 4.0

    config.dtype = "float32"  # of the networks' computation: float32 or bfloat16; losses: float32
    config.sync_batch_norm = True  # average batch statistics over all devices

    config.eval_every_epochs = 1
    config.log_every_steps = 50
    config.checkpoint_every_steps = 1000  # besides one at each evaluation
    # Also at the first log line after this many minutes without a checkpoint; 0: not by time.
    config.checkpoint_every_minutes = 0.0
    config.profile = False  # writes a trace of steps 10 to 20 of each run to RUN/profile
    # Services that get the metrics, besides TensorBoard's files: wandb, mlflow. Their
    # environment variables, such as WANDB_MODE and MLFLOW_TRACKING_URI, say where they are.
    config.trackers = ()
    return config
