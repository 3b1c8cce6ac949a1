"""Settings of a config: checks, defaults, and all of them by dotted names."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import ml_collections

from amdjax.configs import default
from amdjax.errors import UserError, unknown_name
from amdjax.methods import METHODS, canonical_method_name
from amdjax.ranges import AT_LEAST_0, POSITIVE, SEED, check_loss_ranges, check_range, check_ranges

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# Settings that are paths, or in case of the ensemble several, by their dotted names.
PATH_SETTINGS = (
    "data.data_dir",
    "data.folder",
    "data.unlabeled",
    "data.unknown",
    "init_from",
    "teacher.checkpoint",
    "teacher.ensemble",
    "teacher.outputs",
)
_GIVEN_TEACHERS = ("checkpoint", "ensemble", "outputs")  # settings of config.teacher


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


def check_complete(config: ml_collections.ConfigDict, subject: str = "the config") -> None:
    """Makes sure that a config has all settings.

    Args:
      config: of an experiment.
      subject: where it comes from, for the message.

    Raises:
      UserError: naming those that are missing.
    """
    missing = sorted(flat_settings(default.get_config()).keys() - flat_settings(config).keys())
    if missing:
        raise UserError(
            f"{subject} lacks {len(missing)} settings, such as {', '.join(missing[:3])}; start "
            "from amdjax.configs.default.get_config()"
        )


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
        if value is None and known[key] is not None:
            raise UserError(f"config.{key} is None; give a value, such as {known[key]!r}")
    check_ranges("", settings)
    check_loss_ranges(config.losses.to_dict())
    if config.dtype not in _DTYPES:
        raise unknown_name("config.dtype", config.dtype, _DTYPES)
    if not config.methods:
        raise UserError(f"config.methods is empty; known methods: {', '.join(METHODS)}")
    for method in config.methods:
        if not isinstance(method, str):
            raise unknown_name("method", str(method), METHODS)
    for key in ("methods", "seeds", "trackers"):
        values = [str(value) for value in config[key]]
        if key == "methods":
            values = [canonical_method_name(value) for value in values]
        if len(set(values)) < len(values):
            raise UserError(f"config.{key} has duplicates: {', '.join(values)}")
    for seed in config.seeds:
        if not isinstance(seed, int) or not SEED.allows(seed):
            raise UserError(f"config.seeds must be whole numbers of {SEED}, not {seed!r}")
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
        check_range("config.optim.boundaries", epoch, AT_LEAST_0)


def paths_of(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the files and folders that a config names: the values of `PATH_SETTINGS`."""
    settings = flat_settings(config)
    values = [settings.get(name) for name in PATH_SETTINGS]
    lists = ([value] if isinstance(value, str) else value or () for value in values)
    return [path for paths in lists for path in paths if path]


def flat_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the value of each setting by its dotted name, such as "losses.kd.temperature"."""
    return flatten_settings(config.to_dict())


def default_settings(imports: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the default of every setting by its dotted name, as JSON values: lists, not tuples.

    Args:
      imports: modules whose losses and augmentations have settings, too.
    """
    defaults = default.get_config(imports=imports).to_dict()
    return flatten_settings(json.loads(json.dumps(defaults)))


def flatten_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns nested settings by their dotted names."""
    return flax.traverse_util.flatten_dict(settings, sep=".")


def disabling_setting(key: str, settings: Mapping[str, Any]) -> str | None:
    """Returns the setting whose value leaves another without an effect; None: it may have one.

    Args:
      key: dotted name of a setting.
      settings: all settings, see `flat_settings`.
    """
    needs = _NEEDS.get(key, {})
    return next((name for name, allows in needs.items() if not allows(settings[name])), None)


def image_changing_setting(settings: Mapping[str, Any]) -> str:
    """Returns the setting that changes training images by more than a flip; "" if none does.

    Without one, a teacher's outputs can be computed once for each image.

    Args:
      settings: all settings, see `flat_settings`.
    """
    changes = {
        "augment.padding": settings["augment.padding"] > 0,
        "augment.policy": settings["augment.policy"] != "none",
        "augment.color_jitter": any(settings["augment.color_jitter"]),
        "augment.noise": settings["augment.noise"] > 0,
        "augment.erasing": settings["augment.erasing"] > 0,
        "data.random_resized_crop": settings["data.random_resized_crop"],
        "mix.name": settings["mix.name"] in ("mixup", "cutmix")
        and settings["mix.teacher_sees_mixed"],
    }
    return next((name for name, changed in changes.items() if changed), "")


def views_per_image(config: ml_collections.ConfigDict) -> int:
    """Returns the number of views of an image: 2 with flips (it and its mirror image), else 1."""
    return 2 if config.augment.flip else 1


def given_teacher_setting(config: ml_collections.ConfigDict) -> str:
    """Returns the setting of `config.teacher` that gives a trained teacher; "" if none does."""
    return next((key for key in _GIVEN_TEACHERS if config.teacher[key]), "")


def gives_network(config: ml_collections.ConfigDict) -> bool:
    """Returns whether `config.teacher` gives a trained network, or an ensemble of several."""
    return given_teacher_setting(config) in ("checkpoint", "ensemble")


def forward_batch_size(config: ml_collections.ConfigDict) -> int:
    """Returns the batch of a forward pass without gradients: what training computes at once."""
    return config.batch_size // config.accumulate


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
        check_range("config.teacher.ensemble_weights", weight, POSITIVE)
