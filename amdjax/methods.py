"""What each method switches on."""

from typing import Any, NamedTuple

import ml_collections

from amdjax.errors import unknown_name


class Method(NamedTuple):
    """A method: the losses that it adds up, and what it changes in their settings.

    Attributes:
      losses: name of the loss -> settings that take the place of those in `config.losses`.
      summary: one line for people.
      early_teacher: whether it learns from the teacher that is stopped early.
    """

    losses: dict[str, dict[str, Any]]
    summary: str
    early_teacher: bool = False


_ALONE = {"weight": 1.0}
_GLOBAL = {"global_weight": 1.0}
_MASKED = {"mask_threshold": 0.5}


def _supervised(loss: str, summary: str) -> Method:
    return Method({loss: {}}, f"{summary}, in place of cross-entropy, no teacher")


def _with_ce(loss: str, summary: str) -> Method:
    return Method({"ce": _ALONE, loss: {}}, summary)


METHODS: dict[str, Method] = {
    "scratch": Method({"ce": _ALONE}, "cross-entropy alone, no teacher"),
    "kd": Method({"ce": {}, "kd": {}}, "knowledge distillation"),
    "eskd": Method(
        {"ce": {}, "eskd": {}}, "KD that ends early, of a teacher that was stopped early", True
    ),
    "kd_ls": Method(
        {
            "ce": {"weight": 0.1},
            "kd": {"weight": 9.0, "temperature": 2.0, "standardize": True},
        },
        "KD with logit standardisation",
    ),
    "dkd": _with_ce("dkd", "decoupled knowledge distillation"),
    "dist": _with_ce("dist", "DIST: correlation with the teacher's probabilities"),
    "fitnet": _with_ce("fitnet", "FitNet's hint, trained along with cross-entropy"),
    "at": _with_ce("at", "attention transfer"),
    "sp": _with_ce("sp", "similarity preserving"),
    "rkd": _with_ce("rkd", "relational knowledge distillation"),
    "vid": _with_ce("vid", "variational information distillation"),
    "pkt": _with_ce("pkt", "probabilistic knowledge transfer"),
    "cc": _with_ce("cc", "correlation congruence"),
    "nst": _with_ce("nst", "neuron selectivity transfer"),
    "ft": _with_ce("ft", "factor transfer's distance"),
    "afd": Method(
        {"ce": _ALONE, "kd": {"weight": 0.9, "temperature": 4.0}, "afd": {}},
        "attention-based feature matching, with KD",
    ),
    "afds": _with_ce("afds", "attentive feature distillation and selection, distillation half"),
    "amd_g": Method({"ce": {}, "kd": {}, "am": _GLOBAL}, "AMD with the global AM loss"),
    "amd_gl": Method({"ce": {}, "kd": {}, "am": {}}, "AMD with global and local AM loss"),
    "amd_gm": Method(
        {"ce": {}, "kd": {}, "am": {**_GLOBAL, **_MASKED}}, "AMD(g) with masked features"
    ),
    "amd_glm": Method({"ce": {}, "kd": {}, "am": _MASKED}, "AMD(g+l) with masked features"),
    "contrastive": _with_ce("contrastive", "Euclidean contrastive, no teacher"),
    "amc": _with_ce("amc", "angular-margin contrastive, no teacher"),
    "center": _with_ce("center", "center loss, no teacher"),
    "a_softmax": _supervised("a_softmax", "SphereFace's angular softmax"),
    "cosface": _supervised("cosface", "CosFace"),
    "arcface": _supervised("arcface", "ArcFace"),
    "spherical_softmax": _supervised("spherical_softmax", "spherical softmax"),
    "taylor_softmax": _supervised("taylor_softmax", "Taylor softmax"),
}


def needs_early_teacher(name: str) -> bool:
    """Returns whether any part of a method learns from the teacher that is stopped early."""
    return any(METHODS[part].early_teacher for part in name.split("+"))


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
