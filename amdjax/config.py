"""Checks of a config's values, each setting by itself."""

import math
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import ml_collections

from amdjax.data.policies import NUM_LEVELS
from amdjax.errors import UserError, unknown_name
from amdjax.methods import METHODS, canonical_name

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class _Range(NamedTuple):
    """The values that a setting may have; an exclusive bound is not among them."""

    low: float = -math.inf
    high: float = math.inf
    exclusive_low: bool = False
    exclusive_high: bool = False

    def allows(self, value: float) -> bool:
        """Returns whether a value is in the range."""
        above = value > self.low if self.exclusive_low else value >= self.low
        below = value < self.high if self.exclusive_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        low = f"{'above' if self.exclusive_low else 'at least'} {self.low}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.exclusive_high else 'at most'} {self.high}"


_AT_LEAST_0, _AT_LEAST_1 = _Range(0), _Range(1)
_POSITIVE = _Range(0, exclusive_low=True)
_FRACTION = _Range(0, 1)
_POSITIVE_FRACTION = _Range(0, 1, exclusive_low=True)
_DECAY = _Range(0, 1, exclusive_high=True)
_SEED = _Range(0, 2**32 - 1)  # of `jax.random.key`

_GIVEN_TEACHERS = ("checkpoint", "ensemble", "outputs")  # settings of config.teacher
_RANGES = {
    "seed": _SEED,
    "batch_size": _AT_LEAST_1,
    "accumulate": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "max_steps": _AT_LEAST_0,
    "ema_decay": _DECAY,
    "eval_every_epochs": _AT_LEAST_1,
    "log_every_steps": _AT_LEAST_1,
    "checkpoint_every_steps": _AT_LEAST_1,
    "checkpoint_every_minutes": _AT_LEAST_0,
    "teacher.early_fraction": _POSITIVE_FRACTION,
    "teacher.learning_rate": _AT_LEAST_0,
    "data.image_size": _AT_LEAST_0,
    "data.validation": _DECAY,
    "data.validation_seed": _AT_LEAST_0,
    "data.memory_gib": _AT_LEAST_0,
    "data.device_gib": _AT_LEAST_0,
    "augment.padding": _AT_LEAST_0,
    "augment.randaugment.num_ops": _AT_LEAST_1,
    "augment.randaugment.magnitude": _Range(0, NUM_LEVELS - 1),
    "augment.noise": _AT_LEAST_0,
    "augment.erasing": _FRACTION,
    "mix.alpha": _POSITIVE,
    "mix.probability": _FRACTION,
    "mix.moex_lam": _FRACTION,
    "optim.learning_rate": _POSITIVE,
    "optim.factor": _POSITIVE,
    "optim.end_learning_rate": _AT_LEAST_0,
    "optim.warmup_epochs": _AT_LEAST_0,
    "optim.clip_norm": _AT_LEAST_0,
    "optim.momentum": _DECAY,
    "optim.weight_decay": _AT_LEAST_0,
    "optim.ramp_up_epochs": _AT_LEAST_0,
    "optim.ramp_down_epochs": _AT_LEAST_0,
    "optim.beta1": _DECAY,
    "optim.beta1_end": _DECAY,
    "optim.beta2": _DECAY,
}
# Settings of losses: those of the same name mean the same in every loss.
_LOSS_RANGES = {
    "weight": _AT_LEAST_0,
    "ramp_up_epochs": _AT_LEAST_0,
    "end_fraction": _POSITIVE_FRACTION,
    "temperature": _POSITIVE,
    "target_temperature": _POSITIVE,
    "regularization": _POSITIVE,
    "scale": _POSITIVE,
    "margin": _POSITIVE,
    "global_weight": _FRACTION,
    "mask_threshold": _DECAY,
    "label_smoothing": _DECAY,
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks each value of a config by itself.

    Raises:
      UserError: on the first invalid value.
    """
    settings = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    for key, value in settings.items():
        _check_range(f"config.{key}", value, _range_of(key))
    if config.dtype not in _DTYPES:
        raise unknown_name("config.dtype", config.dtype, _DTYPES)
    if not config.methods:
        raise UserError(f"config.methods is empty; known methods: {', '.join(METHODS)}")
    for key in ("methods", "seeds", "trackers"):
        values = [canonical_name(str(value)) for value in config[key]]
        if len(set(values)) < len(values):
            raise UserError(f"config.{key} has duplicates: {', '.join(values)}")
    for seed in config.seeds:
        if not isinstance(seed, int) or not _SEED.allows(seed):
            raise UserError(f"config.seeds must be whole numbers of {_SEED}, not {seed!r}")
    if config.data.unlabeled_only and not config.data.unlabeled:
        raise UserError(
            "config.data.unlabeled_only needs config.data.unlabeled, the folder of the images"
        )
    given = [f"config.teacher.{key}" for key in _GIVEN_TEACHERS if config.teacher[key]]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} both give a teacher; set one of them")
    _check_ensemble(config.teacher)
    if config.seeds_at_once and len(config.seeds) < 2:
        raise UserError("config.seeds_at_once needs at least two config.seeds, such as 0,1,2")
    for epoch in config.optim.boundaries:
        if isinstance(epoch, bool) or not isinstance(epoch, int | float):
            raise UserError(f"config.optim.boundaries must be numbers of epochs, not {epoch!r}")
        _check_range("config.optim.boundaries", epoch, _AT_LEAST_0)


def given_teacher(config: ml_collections.ConfigDict) -> str:
    """Returns the setting of `config.teacher` that gives a trained teacher; "" if none does."""
    return next((key for key in _GIVEN_TEACHERS if config.teacher[key]), "")


def gives_network(config: ml_collections.ConfigDict) -> bool:
    """Returns whether `config.teacher` gives a trained network, or an ensemble of several."""
    return given_teacher(config) in ("checkpoint", "ensemble")


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """Returns the dtype that `config.dtype` names."""
    return _DTYPES[config.dtype]


def _check_ensemble(teacher: ml_collections.ConfigDict) -> None:
    for key, kind in (("ensemble", "paths"), ("ensemble_models", "names of networks")):
        for value in teacher[key]:
            if not isinstance(value, str):
                hint = f"; write ./{value} for a folder of that name" if key == "ensemble" else ""
                raise UserError(f"config.teacher.{key} must be {kind}, not {value!r}{hint}")
    count = len(teacher.ensemble)
    if count == 1:
        raise UserError(
            "config.teacher.ensemble names one network; name several, or use "
            f"config.teacher.checkpoint={teacher.ensemble[0]}"
        )
    for key in ("ensemble_models", "ensemble_weights"):
        if teacher[key] and len(teacher[key]) != count:
            raise UserError(
                f"config.teacher.{key} has {len(teacher[key])} entries and config.teacher.ensemble "
                f"{count}: give one for each network, or none"
            )
    for weight in teacher.ensemble_weights:
        if not isinstance(weight, int | float):
            raise UserError(f"config.teacher.ensemble_weights must be numbers, not {weight!r}")
        _check_range("config.teacher.ensemble_weights", weight, _POSITIVE)


def _range_of(key: str) -> _Range | None:
    if key.startswith("losses."):
        return _LOSS_RANGES.get(key.rpartition(".")[2])
    return _RANGES.get(key)


def _check_range(key: str, value: Any, allowed: _Range | None) -> None:
    if allowed is None or not isinstance(value, int | float):
        return  # a setting of the same name of somebody's loss may be a tuple
    if not (math.isfinite(value) and allowed.allows(value)):
        raise UserError(f"{key} must be {allowed}, not {value}")
