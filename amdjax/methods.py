"""What each method switches on."""

from typing import Any, NamedTuple

import ml_collections

from amdjax.errors import unknown_name


class Method(NamedTuple):
    """A method: the losses that it adds up, and what it changes in their settings.

    Attributes:
      losses: name of the loss -> settings that take the place of those in `config.losses`.
      summary: one line for people.
    """

    losses: dict[str, dict[str, Any]]
    summary: str


_ALONE = {"weight": 1.0}

METHODS: dict[str, Method] = {
    "scratch": Method({"ce": _ALONE}, "cross-entropy alone, no teacher"),
    "kd": Method({"ce": {}, "kd": {}}, "knowledge distillation"),
    "at": Method({"ce": _ALONE, "at": {}}, "attention transfer"),
    "sp": Method({"ce": _ALONE, "sp": {}}, "similarity preserving"),
    "amd_g": Method(
        {"ce": {}, "kd": {}, "am": {"global_weight": 1.0}}, "AMD with the global AM loss"
    ),
    "amd_gl": Method({"ce": {}, "kd": {}, "am": {}}, "AMD with global and local AM loss"),
    "contrastive": Method({"ce": _ALONE, "contrastive": {}}, "Euclidean contrastive, no teacher"),
    "amc": Method({"ce": _ALONE, "amc": {}}, "angular-margin contrastive, no teacher"),
}


def method_losses(name: str, losses: ml_collections.ConfigDict) -> dict[str, dict[str, Any]]:
    """Returns the losses of a method with all their settings.

    Args:
      name: a key of `METHODS`, or several joined by "+": the sum of their losses, a loss that
        two of them name being taken from the first.
      losses: `config.losses`.

    Returns:
      name of the loss -> settings.

    Raises:
      UserError: on an unknown method.
    """
    settings: dict[str, dict[str, Any]] = {}
    for part in name.split("+"):
        if part not in METHODS:
            raise unknown_name("method", part, METHODS)
        for loss, changes in METHODS[part].losses.items():
            settings.setdefault(loss, {**losses[loss].to_dict(), **changes})
    return settings
