"""Loss registry: the function, the declared inputs and the published weight of each loss."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from amdjax.errors import UserError
from amdjax.losses import margin_softmax, softmax_variants
from amdjax.losses.ab import ActivationBoundaries
from amdjax.losses.afd import AttentionFeatureMatching, summarize
from amdjax.losses.afds import AttentiveFeature
from amdjax.losses.am import am_global_local_loss
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.cc import CorrelationCongruence
from amdjax.losses.ce import cross_entropy
from amdjax.losses.center import Center
from amdjax.losses.crd import ContrastiveRepresentation
from amdjax.losses.ctkd import CurriculumTemperature
from amdjax.losses.dist import dist_loss
from amdjax.losses.dkd import dkd_loss
from amdjax.losses.fitnet import FitNet
from amdjax.losses.fsp import FlowProcedure
from amdjax.losses.ft import ft_loss
from amdjax.losses.ft_factor import FactorTransfer
from amdjax.losses.kd import kd_loss
from amdjax.losses.mlkd import mlkd_loss
from amdjax.losses.nkd import nkd_loss
from amdjax.losses.nst import nst_loss
from amdjax.losses.pkt import pkt_loss
from amdjax.losses.reviewkd import ReviewKD
from amdjax.losses.rkd import rkd_loss
from amdjax.losses.rld import rld_loss
from amdjax.losses.simkd import SimKD
from amdjax.losses.sp import sp_loss
from amdjax.losses.spec import WEIGHT_SETTINGS, LossSpec, keyword_defaults
from amdjax.losses.ttm import ttm_loss, wttm_loss
from amdjax.losses.vid import VariationalInformation
from amdjax.losses.wkd import WassersteinFeature, wkd_class_weight_loss
from amdjax.models.layers import STAGES, Outputs
from amdjax.registry import register


def _class_weights(outputs: Outputs) -> jax.Array:
    if outputs.class_weights is None:
        raise UserError("the student has no class_weights, from which the loss predicts")
    return outputs.class_weights


def _sphere_logits(outputs: Outputs, _: Mapping[str, Any]) -> jax.Array:
    return margin_softmax.sphere_logits(outputs.embedding, _class_weights(outputs))


def _cosine_logits(outputs: Outputs, settings: Mapping[str, Any]) -> jax.Array:
    weights = _class_weights(outputs)
    return margin_softmax.cosine_logits(outputs.embedding, weights, settings["scale"])


def _spherical_scores(outputs: Outputs, settings: Mapping[str, Any]) -> jax.Array:
    return softmax_variants.spherical_scores(outputs.logits, **settings)


def _taylor_scores(outputs: Outputs, settings: Mapping[str, Any]) -> jax.Array:
    return softmax_variants.taylor_scores(outputs.logits, **settings)


_LOGITS = ("student.logits", "teacher.logits")
_FEATURES = ("student.features", "teacher.features")
_EMBEDDINGS = ("student.embedding", "teacher.embedding")
_ANGLES = ("student.embedding", "student.class_weights", "hard_labels")

LOSSES: dict[str, LossSpec] = {
    # Losses of the student alone.
    "ce": LossSpec(
        cross_entropy, inputs=("student.logits", "labels"), summary="cross-entropy with the labels"
    ),
    "ce_strong": LossSpec(
        cross_entropy,
        inputs=("strong_student.logits", "labels"),
        weight=0.1,
        summary="cross-entropy of the strongly augmented view",
    ),
    "center": LossSpec(
        Center,
        inputs=("student.embedding", "student.logits", "hard_labels"),
        weight=0.003,
        summary="center loss",
    ),
    "a_softmax": LossSpec(
        margin_softmax.a_softmax_loss,
        inputs=(*_ANGLES, "step"),
        summary="SphereFace: angular softmax, replaces ce",
        logits_fn=_sphere_logits,
    ),
    "cosface": LossSpec(
        margin_softmax.cosface_loss,
        inputs=_ANGLES,
        summary="CosFace: margin on the cosine, replaces ce",
        logits_fn=_cosine_logits,
    ),
    "arcface": LossSpec(
        margin_softmax.arcface_loss,
        inputs=_ANGLES,
        summary="ArcFace: margin on the angle, replaces ce",
        logits_fn=_cosine_logits,
    ),
    "spherical_softmax": LossSpec(
        softmax_variants.spherical_softmax_loss,
        inputs=("student.logits", "labels"),
        summary="softmax with squares instead of exp, replaces ce",
        logits_fn=_spherical_scores,
    ),
    "taylor_softmax": LossSpec(
        softmax_variants.taylor_softmax_loss,
        inputs=("student.logits", "labels"),
        summary="softmax with the Taylor series of exp, replaces ce",
        logits_fn=_taylor_scores,
    ),
    "amc": LossSpec(
        amc_loss,
        inputs=("student.embedding", "pair_labels"),
        weight=0.1,
        summary="angular-margin contrastive loss of pairs",
        whole_batch=True,
        pairs_halves=True,
    ),
    "contrastive": LossSpec(
        contrastive_loss,
        inputs=("student.embedding", "pair_labels"),
        weight=0.1,
        summary="Euclidean contrastive loss of pairs",
        whole_batch=True,
        pairs_halves=True,
    ),
    # Distillation of logits.
    "kd": LossSpec(
        kd_loss,
        inputs=_LOGITS,
        weight=0.9,
        summary="knowledge distillation, T^2 KL(teacher || student)",
    ),
    "dkd": LossSpec(
        dkd_loss,
        inputs=(*_LOGITS, "hard_labels"),
        summary="decoupled knowledge distillation",
        ramp_up_epochs=20.0,
        ramp="linear",
    ),
    "dist": LossSpec(
        dist_loss,
        inputs=_LOGITS,
        summary="DIST: correlation of the probabilities",
        whole_batch=True,
    ),
    "ttm": LossSpec(
        ttm_loss,
        inputs=_LOGITS,
        weight=45.0,
        summary="transformed teacher matching, the student at temperature 1",
    ),
    "wttm": LossSpec(
        wttm_loss,
        inputs=_LOGITS,
        weight=4.0,
        summary="transformed teacher matching, weighted by sample",
    ),
    "nkd": LossSpec(
        nkd_loss, inputs=(*_LOGITS, "hard_labels"), summary="normalized knowledge distillation"
    ),
    "rld": LossSpec(
        rld_loss,
        inputs=(*_LOGITS, "hard_labels"),
        summary="refined logit distillation",
        ramp_up_epochs=20.0,
        ramp="linear",
    ),
    "wkd_l": LossSpec(
        wkd_class_weight_loss,
        inputs=(*_LOGITS, "hard_labels", "teacher.class_weights"),
        summary="Wasserstein distance of the probabilities",
    ),
    "ctkd": LossSpec(
        CurriculumTemperature,
        inputs=(*_LOGITS, "epoch"),
        weight=0.9,
        summary="knowledge distillation with a trained temperature that maximises it",
    ),
    "mlkd": LossSpec(
        mlkd_loss,
        inputs=(
            *("student.logits", "strong_student.logits"),
            *("teacher.logits", "strong_teacher.logits"),
        ),
        weight=0.9,
        summary="multi-level logit distillation of a weakly and a strongly augmented view",
        whole_batch=True,
    ),
    # Distillation of features.
    "am": LossSpec(
        am_global_local_loss,
        inputs=_FEATURES,
        weight=5000.0,
        summary="angular margin of attention maps, global and local",
        attention_only=True,
    ),
    "at": LossSpec(
        at_loss, inputs=_FEATURES, weight=1000.0, summary="attention transfer", attention_only=True
    ),
    "ft": LossSpec(
        ft_loss, inputs=_FEATURES, weight=200.0, summary="factor transfer, distance of the factors"
    ),
    "fitnet": LossSpec(
        FitNet, inputs=_FEATURES, summary="FitNet hint with a trained adapter", features=("stage2",)
    ),
    "nst": LossSpec(nst_loss, inputs=_FEATURES, weight=50.0, summary="neuron selectivity transfer"),
    "vid": LossSpec(
        VariationalInformation,
        inputs=_FEATURES,
        weight=3.0,
        summary="variational information distillation",
    ),
    "afd": LossSpec(
        AttentionFeatureMatching,
        inputs=_FEATURES,
        weight=200.0,
        summary="attention-based feature matching",
        features=("stem", *STAGES),
        whole_batch=True,
        layers_together=True,
        reduce=summarize,
    ),
    "afds": LossSpec(
        AttentiveFeature, inputs=_FEATURES, weight=500.0, summary="attentive feature distillation"
    ),
    "ab": LossSpec(
        ActivationBoundaries,
        inputs=_FEATURES,
        summary="activation boundaries, with trained connectors",
        whole_batch=True,
        layers_together=True,
    ),
    "fsp": LossSpec(
        FlowProcedure,
        inputs=_FEATURES,
        weight=50.0,
        summary="flow of solution procedure between layers",
        features=("stem", *STAGES),
        layers_together=True,
    ),
    "ft_factor": LossSpec(
        FactorTransfer,
        inputs=_FEATURES,
        weight=200.0,
        summary="factor transfer with paraphraser and translator",
        features=("stage3",),
        whole_batch=True,
    ),
    "reviewkd": LossSpec(
        ReviewKD,
        inputs=(*_FEATURES, *_EMBEDDINGS),
        summary="knowledge review, with a trained fusion of the layers",
        ramp_up_epochs=20.0,
        ramp="linear",
        whole_batch=True,
        layers_together=True,
    ),
    "wkd_f": LossSpec(
        WassersteinFeature,
        inputs=_FEATURES,
        weight=0.02,
        summary="Wasserstein distance of the channels' distributions, with a trained projector",
        features=("stage3",),
        whole_batch=True,
    ),
    "simkd": LossSpec(
        SimKD,
        inputs=(*_FEATURES, "teacher.class_weights", "teacher.class_bias"),
        summary="projection to the teacher's last feature, whose classifier is used",
        features=("final",),
        whole_batch=True,
        layers_together=True,
        logits_fn=SimKD.logits,
    ),
    "sp": LossSpec(
        sp_loss, inputs=_FEATURES, weight=3000.0, summary="similarity preserving", whole_batch=True
    ),
    # Distillation of embeddings.
    "rkd": LossSpec(
        rkd_loss,
        inputs=_EMBEDDINGS,
        summary="relational knowledge distillation: distances and angles",
        whole_batch=True,
    ),
    "pkt": LossSpec(
        pkt_loss,
        inputs=_EMBEDDINGS,
        weight=30000.0,
        summary="probabilistic knowledge transfer",
        whole_batch=True,
    ),
    "cc": LossSpec(
        CorrelationCongruence,
        inputs=_EMBEDDINGS,
        weight=0.02,
        summary="correlation congruence",
        whole_batch=True,
    ),
    "crd": LossSpec(
        ContrastiveRepresentation,
        inputs=(*_EMBEDDINGS, "hard_labels", "example_index", "num_examples", "key"),
        weight=0.8,
        summary="contrastive representation distillation",
        whole_batch=True,
    ),
}

_Loss = TypeVar("_Loss", bound=Callable)

STEP_METRICS = ("loss", "accuracy", "grad_norm", "param_norm")  # of a step, beside its losses
_LINE_KEYS = ("split", "step", "epoch", *STEP_METRICS, "learning_rate", "images_per_s")


def register_loss(
    name: str, summary: str, *, inputs: tuple[str, ...], **options: Any
) -> Callable[[_Loss], _Loss]:
    """Returns a decorator that registers a function of arrays, or a linen module, as a loss.

    Arguments with a default, or the attributes of the module, become settings of
    `config.losses.NAME`.

    Args:
      name: of the loss in methods and settings.
      summary: description in one line, for `--list`.
      inputs: names of the arrays that are its positional arguments, see `LossSpec`.
      **options: other attributes of `LossSpec`, such as `weight`, `features` and `whole_batch`.

    Raises:
      UserError: if the name is taken, an input is unknown, the function takes another number of
        arrays, or a default cannot be a setting; or if the name is that of another value in a
        line of `metrics.jsonl`.
    """

    def decorate(function: _Loss) -> _Loss:
        spec = LossSpec(function, inputs=inputs, summary=summary, **options)
        _check_arguments(name, spec)
        register(LOSSES, "loss", name, spec, function)
        return function

    return decorate


def _check_arguments(name: str, spec: LossSpec) -> None:
    """Makes sure that a function takes its inputs, and that its defaults can be settings."""
    if name in _LINE_KEYS:
        raise UserError(f"{name!r} cannot be the name of a loss: metrics.jsonl uses it")
    function: Any = spec.function
    call = function.__call__ if spec.has_variables else function
    parameters = list(inspect.signature(call).parameters.values())[spec.has_variables :]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    arrays = [p.name for p in positional if p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(arrays) != len(spec.inputs) and not variadic:
        raise UserError(
            f"the loss {name!r} has {len(spec.inputs)} inputs ({', '.join(spec.inputs)}), but "
            f"{function.__name__} takes {len(arrays)} arrays ({', '.join(arrays)})"
        )
    reserved = {"weight", *WEIGHT_SETTINGS, *spec.selection_defaults()}
    for key, value in keyword_defaults(spec.function).items():
        if key in reserved:
            raise UserError(
                f"the loss {name!r} has an argument {key!r}, which is a setting of every loss; "
                "give it another name"
            )
        if not _is_setting(value):
            raise UserError(
                f"the loss {name!r} has the default {key}={value!r}; a setting is a number, a "
                "text, True or False, None, or a tuple of these"
            )


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str)
