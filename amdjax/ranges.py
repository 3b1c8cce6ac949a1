"""The values that settings may have: a range for each number of a config."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from amdjax.errors import UserError

MAX_MAGNITUDE = 30  # the highest level of RandAugment


class Range(NamedTuple):
    """The values that a setting may have; an exclusive bound is not among them."""

    low: float = -math.inf
    high: float = math.inf
    exclusive_low: bool = False
    exclusive_high: bool = False
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Returns whether a value is in the range."""
        if self.whole and not isinstance(value, int):
            return False
        above = value > self.low if self.exclusive_low else value >= self.low
        below = value < self.high if self.exclusive_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.exclusive_low else 'at least'} {self.low}"
        low = f"a whole number of {low}" if self.whole else low
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.exclusive_high else 'at most'} {self.high}"


AT_LEAST_0 = Range(0)
POSITIVE = Range(0, exclusive_low=True)
SEED = Range(0, 2**32 - 1)  # of `jax.random.key`
_AT_LEAST_1 = Range(1)
_FRACTION = Range(0, 1)
_POSITIVE_FRACTION = Range(0, 1, exclusive_low=True)
_DECAY = Range(0, 1, exclusive_high=True)
_SIZE = Range(1, whole=True)

_RANGES = {
    "seed": SEED,
    "batch_size": _AT_LEAST_1,
    "accumulate": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "max_steps": AT_LEAST_0,
    "ema_decay": _DECAY,
    "eval_every_epochs": _AT_LEAST_1,
    "log_every_steps": _AT_LEAST_1,
    "checkpoint_every_steps": _AT_LEAST_1,
    "checkpoint_every_minutes": AT_LEAST_0,
    "teacher.early_fraction": _POSITIVE_FRACTION,
    "teacher.learning_rate": AT_LEAST_0,
    "data.image_size": AT_LEAST_0,
    "data.validation": _DECAY,
    "data.validation_seed": AT_LEAST_0,
    "data.memory_gib": AT_LEAST_0,
    "data.device_gib": AT_LEAST_0,
    "augment.padding": AT_LEAST_0,
    "augment.randaugment.num_ops": _AT_LEAST_1,
    "augment.randaugment.magnitude": Range(0, MAX_MAGNITUDE),
    "augment.noise": AT_LEAST_0,
    "augment.erasing": _FRACTION,
    "mix.alpha": POSITIVE,
    "mix.probability": _FRACTION,
    "mix.moex_lam": _FRACTION,
    "optim.learning_rate": POSITIVE,
    "optim.factor": POSITIVE,
    "optim.end_learning_rate": AT_LEAST_0,
    "optim.warmup_epochs": AT_LEAST_0,
    "optim.clip_norm": AT_LEAST_0,
    "optim.momentum": _DECAY,
    "optim.weight_decay": AT_LEAST_0,
    "optim.ramp_up_epochs": AT_LEAST_0,
    "optim.ramp_down_epochs": AT_LEAST_0,
    "optim.beta1": _DECAY,
    "optim.beta1_end": _DECAY,
    "optim.beta2": _DECAY,
}
# Settings of losses. A name without that of a loss means the same in every loss.
_LOSS_RANGES = {
    "weight": AT_LEAST_0,
    "ramp_up_epochs": AT_LEAST_0,
    "end_fraction": _POSITIVE_FRACTION,
    "end_weight": AT_LEAST_0,
    "temperature": POSITIVE,
    "target_temperature": POSITIVE,
    "regularization": POSITIVE,
    "scale": POSITIVE,
    "margin": POSITIVE,
    "global_weight": _FRACTION,
    "mask_threshold": _DECAY,
    "label_smoothing": _DECAY,
    "a_softmax.least": AT_LEAST_0,
    "afd.dimension": _SIZE,
    "cc.dimension": _SIZE,
    "crd.dimension": _SIZE,
    "crd.negatives": _SIZE,
    "ctkd.start": POSITIVE,
    "dist.eps": AT_LEAST_0,
    "ft_factor.rate": POSITIVE,
    "reviewkd.max_width": _SIZE,
    "simkd.factor": _SIZE,
    "spherical_softmax.eps": POSITIVE,
    "ttm.gamma": POSITIVE,
    "wkd_f.eps": AT_LEAST_0,
    "wkd_f.grid": _SIZE,
    "wkd_f.width": _SIZE,
    "wkd_l.iterations": _SIZE,
    "wttm.gamma": POSITIVE,
}


def check_ranges(section: str, settings: Mapping[str, Any]) -> None:
    """Checks each setting of a section by itself.

    Args:
      section: such as "augment"; "" for all sections, with the dotted names of their settings.
      settings: name -> value.

    Raises:
      UserError: on the first value that is out of range.
    """
    for name, value in settings.items():
        key = f"{section}.{name}" if section else name
        check_range(f"config.{key}", value, _RANGES.get(key))


def check_loss_ranges(losses: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks each setting of losses by itself.

    Args:
      losses: name -> settings, as in `config.losses`.

    Raises:
      UserError: on the first value that is out of range.
    """
    for loss, settings in losses.items():
        for key, value in settings.items():
            allowed = _LOSS_RANGES.get(f"{loss}.{key}", _LOSS_RANGES.get(key))
            check_range(f"config.losses.{loss}.{key}", value, allowed)


def check_range(key: str, value: Any, allowed: Range | None) -> None:
    """Makes sure that a number is in its range.

    Args:
      key: of the setting, for the message.
      value: anything; only numbers are checked.
      allowed: the range; None: any.

    Raises:
      UserError: if it is not.
    """
    if allowed is None or not isinstance(value, int | float):
        return  # a setting of the same name of somebody's loss may be a tuple
    if not (math.isfinite(value) and allowed.allows(value)):
        raise UserError(f"{key} must be {allowed}, not {value}")
