"""Method registry: the losses of each method."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from amdjax.errors import UserError, unknown_name
from amdjax.losses import LOSSES, build_objective
from amdjax.registry import register


class Method(NamedTuple):
    """The losses that a method adds up, with its changes to their settings.

    Attributes:
      losses: name of the loss -> settings that override those in `config.losses`.
      summary: description in one line, for `--list`.
      early_teacher: whether the student learns from the early-stopped teacher.
    """

    losses: dict[str, dict[str, Any]]
    summary: str
    early_teacher: bool = False


# Folders of a workdir that are not those of students.
TEACHER = "teacher"
EARLY_TEACHER = "teacher_early"
TEACHERS = (TEACHER, EARLY_TEACHER)
REPORT_FOLDER = "report"
_RESERVED = (*TEACHERS, REPORT_FOLDER)

_UNIT = {"weight": 1.0}
_GLOBAL = {"global_weight": 1.0}
_MASKED = {"mask_threshold": 0.5}


def _supervised(loss: str, summary: str) -> Method:
    return Method({loss: {}}, f"{summary} instead of cross-entropy, no teacher")


def _with_ce(loss: str, summary: str) -> Method:
    return Method({"ce": _UNIT, loss: {}}, summary)


METHODS: dict[str, Method] = {
    "scratch": Method({"ce": _UNIT}, "cross-entropy only, no teacher"),
    "kd": Method({"ce": {}, "kd": {}}, "knowledge distillation"),
    "eskd": Method(
        {"ce": {"end_fraction": 0.25, "end_weight": 1.0}, "kd": {"end_fraction": 0.25}},
        "early-stopped KD from an early-stopped teacher",
        early_teacher=True,
    ),
    "kd_ls": Method(
        {
            "ce": {"weight": 0.1},
            "kd": {"weight": 9.0, "temperature": 2.0, "standardize": True},
        },
        "KD with logit standardisation",
    ),
    "dkd": _with_ce("dkd", "decoupled knowledge distillation"),
    "dkd_ls": Method(
        {
            "ce": _UNIT,
            "dkd": {"weight": 9.0, "temperature": 2.0, "standardize": True},
        },
        "decoupled KD with logit standardisation",
    ),
    "dist": _with_ce("dist", "DIST: correlation with the teacher's probabilities"),
    "ttm": _with_ce("ttm", "transformed teacher matching"),
    "wttm": _with_ce("wttm", "weighted transformed teacher matching"),
    "nkd": _with_ce("nkd", "normalized knowledge distillation"),
    "rld": _with_ce("rld", "refined logit distillation"),
    "wkd_l": _with_ce("wkd_l", "WKD-L: Wasserstein distance of the probabilities"),
    "ctkd": Method({"ce": {"weight": 0.1}, "ctkd": {}}, "KD with a curriculum of the temperature"),
    "mlkd": Method(
        {"ce": {"weight": 0.1}, "ce_strong": {}, "mlkd": {}},
        "multi-level logit distillation of two views of each image",
    ),
    "mlkd_ls": Method(
        {
            "ce": {"weight": 0.1},
            "ce_strong": {},
            "mlkd": {"weight": 9.0, "temperature": 2.0, "standardize": True},
        },
        "multi-level distillation with logit standardisation",
    ),
    "fitnet": _with_ce("fitnet", "FitNet hint, trained jointly with cross-entropy"),
    "at": _with_ce("at", "attention transfer"),
    "sp": _with_ce("sp", "similarity preserving"),
    "rkd": _with_ce("rkd", "relational knowledge distillation"),
    "vid": _with_ce("vid", "variational information distillation"),
    "pkt": _with_ce("pkt", "probabilistic knowledge transfer"),
    "cc": _with_ce("cc", "correlation congruence"),
    "crd": _with_ce("crd", "contrastive representation distillation"),
    "nst": _with_ce("nst", "neuron selectivity transfer"),
    "ft": _with_ce("ft", "factor transfer, distance of the factors"),
    "ft_factor": _with_ce("ft_factor", "factor transfer with paraphraser and translator"),
    "fsp": _with_ce("fsp", "flow of solution procedure, trained jointly with cross-entropy"),
    "ab": _with_ce("ab", "activation boundaries, trained jointly with cross-entropy"),
    "reviewkd": _with_ce("reviewkd", "knowledge review"),
    "wkd_f": _with_ce("wkd_f", "WKD-F: Wasserstein distance of the channels' distributions"),
    "simkd": Method({"simkd": {}}, "SimKD: the student predicts with the teacher's classifier"),
    "afd": Method(
        {"ce": _UNIT, "kd": {"weight": 0.9, "temperature": 4.0}, "afd": {}},
        "attention-based feature matching, with KD",
    ),
    "afds": _with_ce("afds", "attentive feature distillation, without the selection"),
    "amd_g": Method({"ce": {}, "kd": {}, "am": _GLOBAL}, "AMD with the global AM loss"),
    "amd_gl": Method({"ce": {}, "kd": {}, "am": {}}, "AMD with the global and local AM loss"),
    "amd_gm": Method(
        {"ce": {}, "kd": {}, "am": {**_GLOBAL, **_MASKED}}, "AMD(g) with masked features"
    ),
    "amd_glm": Method({"ce": {}, "kd": {}, "am": _MASKED}, "AMD(g+l) with masked features"),
    "contrastive": _with_ce("contrastive", "Euclidean contrastive loss, no teacher"),
    "amc": _with_ce("amc", "angular-margin contrastive loss, no teacher"),
    "center": _with_ce("center", "center loss, no teacher"),
    "a_softmax": _supervised("a_softmax", "SphereFace: angular softmax"),
    "cosface": _supervised("cosface", "CosFace"),
    "arcface": _supervised("arcface", "ArcFace"),
    "spherical_softmax": _supervised("spherical_softmax", "spherical softmax"),
    "taylor_softmax": _supervised("taylor_softmax", "Taylor softmax"),
}


def register_method(
    name: str, summary: str, losses: Mapping[str, Mapping[str, Any]], *, early_teacher: bool = False
) -> None:
    """Registers a method: a sum of losses.

    If a file registers several methods of the same name, the last one counts.

    Args:
      name: of the method, for `config.methods`.
      summary: description in one line, for `--list`.
      losses: name of the loss -> settings that override those in `config.losses`; {} for none.
      early_teacher: whether the student learns from the early-stopped teacher.

    Raises:
      UserError: if another file has taken the name, or a loss or one of its settings does not
        exist, or a value is a text where the default is a number or the like.
    """
    if name in _RESERVED:
        raise UserError(f"{name!r} cannot be the name of a method: it is a folder of each workdir")
    try:
        build_objective(losses)
    except UserError as error:
        raise UserError(f"the method {name!r}: {error}") from error
    settings = {loss: dict(changes) for loss, changes in losses.items()}
    register(METHODS, "method", name, Method(settings, summary, early_teacher))


def canonical_method_name(name: str) -> str:
    """Returns the name of a method as the registry has it: "KD + at" is "kd+at"."""
    return "+".join(part.strip().lower() for part in name.split("+"))


def needs_early_teacher(name: str) -> bool:
    """Returns whether any part of a method learns from the early-stopped teacher."""
    return any(METHODS[part].early_teacher for part in name.split("+"))


def method_losses(name: str, losses: ml_collections.ConfigDict) -> dict[str, dict[str, Any]]:
    """Returns the losses of a method with all their settings.

    Args:
      name: a key of `METHODS`, or several joined by "+" for the sum of their losses. A loss that
        several of them name has the settings of the first.
      losses: `config.losses`.

    Returns:
      name of the loss -> settings.

    Raises:
      UserError: on an unknown method, or one that is named twice.
    """
    settings: dict[str, dict[str, Any]] = {}
    parts = name.split("+")
    if len(set(parts)) < len(parts):
        raise UserError(f"the method {name!r} names one method twice")
    for part in parts:
        if part not in METHODS:
            raise _unknown_method(part)
        for loss, changes in METHODS[part].losses.items():
            settings.setdefault(loss, {**losses[loss].to_dict(), **changes})
    return settings


def _unknown_method(name: str) -> UserError:
    """Returns the error for a name that is not a method, and may be a loss."""
    having = [method for method, entry in METHODS.items() if name in entry.losses]
    if name in LOSSES:
        methods = f"methods with it: {', '.join(having)}" if having else "register a method with it"
        return UserError(f"unknown method {name!r}, which is a loss; {methods}")
    return unknown_name("method", name, METHODS)
