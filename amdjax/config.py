"""Settings of a config: checks of each by itself, defaults, and all of them by dotted names."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax.numpy as jnp
import ml_collections

from amdjax.configs import default
from amdjax.data.policies import NUM_LEVELS
from amdjax.errors import UserError, unknown_name
from amdjax.methods import METHODS, canonical_method_name

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class _Range(NamedTuple):
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


_AT_LEAST_0, _AT_LEAST_1 = _Range(0), _Range(1)
_POSITIVE = _Range(0, exclusive_low=True)
_FRACTION = _Range(0, 1)
_POSITIVE_FRACTION = _Range(0, 1, exclusive_low=True)
_DECAY = _Range(0, 1, exclusive_high=True)
_SIZE = _Range(1, whole=True)
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
# Settings of losses. A name without that of a loss means the same in every loss.
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
    "a_softmax.least": _AT_LEAST_0,
    "afd.dimension": _SIZE,
    "cc.dimension": _SIZE,
    "crd.dimension": _SIZE,
    "crd.negatives": _SIZE,
    "ctkd.start": _POSITIVE,
    "dist.eps": _AT_LEAST_0,
    "ft_factor.rate": _POSITIVE,
    "reviewkd.max_width": _SIZE,
    "simkd.factor": _SIZE,
    "spherical_softmax.eps": _POSITIVE,
    "ttm.gamma": _POSITIVE,
    "wkd_f.eps": _AT_LEAST_0,
    "wkd_f.grid": _SIZE,
    "wkd_f.width": _SIZE,
    "wkd_l.iterations": _SIZE,
    "wttm.gamma": _POSITIVE,
}


def _positive(value: float) -> bool:
    return value > 0


def _one_of(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def _other_than(*names: str) -> Callable[[str], bool]:
    return lambda name: name not in names


# Setting -> others, with the values that it needs to have an effect. An optimiser that amdjax does
# not know may read any of its settings.
_NEEDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "sweep.choices": {"sweep.key": _other_than("")},
    "data.validation_seed": {"data.validation": _positive},
    "augment.pad_mode": {"augment.padding": _positive},
    "mix.alpha": {"mix.name": _one_of("mixup", "cutmix")},
    "mix.probability": {"mix.name": _other_than("none")},
    "mix.teacher_sees_mixed": {"mix.name": _one_of("mixup", "cutmix")},
    "mix.layer": {"mix.name": _one_of("moex")},
    "mix.moex_lam": {"mix.name": _one_of("moex")},
    "optim.boundaries": {"optim.schedule": _one_of("step")},
    "optim.factor": {"optim.schedule": _one_of("step")},
    "optim.end_learning_rate": {"optim.schedule": _other_than("step")},
    "optim.momentum": {"optim.name": _other_than("adam", "adamw")},
    "optim.decay_norms_and_biases": {"optim.weight_decay": _positive},
    "optim.beta1": {"optim.name": _other_than("sgd")},
    "optim.beta1_end": {"optim.name": _other_than("sgd"), "optim.ramp_down_epochs": _positive},
    "optim.beta2": {"optim.name": _other_than("sgd")},
}


def unknown_key(key: str, known: Collection[str]) -> UserError:
    """Returns the error for a setting that does not exist.

    Args:
      key: dotted name of the setting.
      known: those of all settings; of a group that exists, only these are suggested.
    """
    group = key.rpartition(".")[0]
    siblings = [name for name in known if group and name.rpartition(".")[0] == group]
    if siblings:
        return unknown_name("config key", key, siblings, cutoff=0.75)  # they begin alike
    return unknown_name("config key", key, known)


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks each value of a config by itself.

    Raises:
      UserError: on the first invalid value, or a setting that does not exist.
    """
    settings = flat_settings(config)
    known = flat_settings(default.get_config(imports=config.imports))
    if unknown := sorted(settings.keys() - known):
        raise unknown_key(unknown[0], known)
    for key, value in settings.items():
        _check_range(f"config.{key}", value, _RANGES.get(key))
    check_losses(config.losses.to_dict())
    if config.dtype not in _DTYPES:
        raise unknown_name("config.dtype", config.dtype, _DTYPES)
    if not config.methods:
        raise UserError(f"config.methods is empty; known methods: {', '.join(METHODS)}")
    for key in ("methods", "seeds", "trackers"):
        values = [canonical_method_name(str(value)) for value in config[key]]
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


def check_losses(losses: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks each setting of losses by itself.

    Args:
      losses: name -> settings, as in `config.losses`.

    Raises:
      UserError: on the first value that is out of range.
    """
    for loss, settings in losses.items():
        for key, value in settings.items():
            allowed = _LOSS_RANGES.get(f"{loss}.{key}", _LOSS_RANGES.get(key))
            _check_range(f"config.losses.{loss}.{key}", value, allowed)


def flat_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the value of each setting by its dotted name, such as "losses.kd.temperature"."""
    return flax.traverse_util.flatten_dict(config.to_dict(), sep=".")


def default_settings(imports: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the default of every setting by its dotted name, as JSON values: lists, not tuples.

    Args:
      imports: modules whose losses and augmentations have settings, too.
    """
    defaults = default.get_config(imports=imports).to_dict()
    return flatten_settings(json.loads(json.dumps(defaults)))


def flatten_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns saved settings, nested JSON values, by their dotted names.

    Unlike in `flat_settings`, an empty section, such as that of a loss without settings, is kept.
    """
    return flax.traverse_util.flatten_dict(settings, sep=".", keep_empty_nodes=True)


def disabled_by(key: str, settings: Mapping[str, Any]) -> str | None:
    """Returns the setting whose value leaves another without an effect; None: it may have one.

    Args:
      key: dotted name of a setting.
      settings: all settings, see `flat_settings`.
    """
    needs = _NEEDS.get(key, {})
    return next((name for name, allows in needs.items() if not allows(settings[name])), None)


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


def _check_range(key: str, value: Any, allowed: _Range | None) -> None:
    if allowed is None or not isinstance(value, int | float):
        return  # a setting of the same name of somebody's loss may be a tuple
    if not (math.isfinite(value) and allowed.allows(value)):
        raise UserError(f"{key} must be {allowed}, not {value}")
