"""Settings of a config that have no effect on any of its runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from amdjax.config import disabling_setting, flat_settings, image_changing_setting
from amdjax.data.policies import policy_names
from amdjax.experiment import RunSpec
from amdjax.losses import build_objective
from amdjax.losses.objective import is_computed
from amdjax.methods import EARLY_TEACHER


def ignored_settings(
    config: ml_collections.ConfigDict, specs: Sequence[RunSpec], names: Iterable[str]
) -> list[str]:
    """Returns a sentence for each setting that has no effect on any run.

    These are the settings of a loss that no method has or that every method with it or the sweep
    overrides, those that another setting disables, see `disabling_setting`, those of a teacher that
    is not trained or that no method learns from, and those of augmentations and sweeps that no
    method uses.

    Args:
      config: of the experiment.
      specs: its runs.
      names: of settings, such as "losses.kd.temperature".
    """
    settings = flat_settings(config)
    reasons = {
        name: _unread(name, settings, specs) or _overridden(name, settings, specs) for name in names
    }
    return [
        f"config.{name}={settings[name]!r} has no effect{reason}"
        for name, reason in reasons.items()
        if reason
    ]


def _unread(name: str, settings: Mapping[str, Any], specs: Sequence[RunSpec]) -> str:
    """Returns why no run reads a setting, as the end of a sentence; "" if one does."""
    if other := disabling_setting(name, settings):
        return f" with config.{other}={settings[other]!r}"
    teachers = {spec.method for spec in specs if spec.is_teacher}
    if name == "teacher.early_fraction" and EARLY_TEACHER not in teachers:
        return ": it is a setting of eskd"
    if name == "teacher.learning_rate" and not teachers:
        return ": no teacher is trained"
    of_teacher = name.startswith("teacher.") or name == "mix.teacher_sees_mixed"
    if of_teacher and not any(spec.teacher for spec in specs):
        return ": no method of config.methods learns from a teacher"
    if name in ("teacher.name", "teacher.cached") and settings["teacher.outputs"]:
        return f" with config.teacher.outputs={settings['teacher.outputs']!r}"
    if name == "teacher.cached" and settings[name] and (change := image_changing_setting(settings)):
        return f" with config.{change}={settings[change]!r}"
    key = settings["sweep.key"]
    if name in ("sweep.key", "sweep.choices") and key and not any(spec.sweep_key for spec in specs):
        return f": no method of config.methods reads config.{key}"
    match name.split("."):
        case "losses", loss, setting:
            return _unread_of_loss(loss, setting, specs)
        case "augment", "strong_policy" if not _has_strong_view(specs):
            return ": no method of config.methods compares two views of each image"
        case "augment", augmentation, _:
            keys = ["augment.policy"]
            if _has_strong_view(specs):
                keys.append("augment.strong_policy")
            if not any(augmentation in policy_names(settings[key]) for key in keys):
                return " with " + " and ".join(f"config.{key}={settings[key]!r}" for key in keys)
    return ""


def _unread_of_loss(loss: str, setting: str, specs: Sequence[RunSpec]) -> str:
    """Returns why no run reads a setting of a loss, as the end of a sentence; "" if one does."""
    used = [spec.losses[loss] for spec in specs if loss in spec.losses]
    if not used:
        return f": no method of config.methods has the loss {loss}"
    if setting == "end_weight" and all(settings["end_fraction"] == 1 for settings in used):
        return f" with config.losses.{loss}.end_fraction=1"
    if setting != "weight" and not any(is_computed(loss, settings) for settings in used):
        return f" with config.losses.{loss}.weight=0"
    return ""


def _has_strong_view(specs: Sequence[RunSpec]) -> bool:
    """Returns whether a run reads the second view of `augment.strong_policy`."""
    return any(build_objective(spec.losses).needs_strong_view for spec in specs)


def _overridden(name: str, settings: Mapping[str, Any], specs: Sequence[RunSpec]) -> str:
    """Returns what overrides a setting of a loss, as the end of a sentence; "" if nothing does."""
    kind, _, rest = name.partition(".")
    loss, _, setting = rest.partition(".")
    if kind != "losses" or not setting:
        return ""
    used = {
        spec.method: spec.losses[loss][setting]
        for spec in specs
        if not spec.is_teacher and loss in spec.losses and spec.sweep_key != name
    }
    if settings[name] in used.values():
        return ""
    reasons = [f"{method} sets it to {other!r}" for method, other in used.items()]
    if any(spec.sweep_key == name for spec in specs):
        reasons.append("config.sweep sets it")
    return f": {', '.join(reasons)}" if reasons else ""
