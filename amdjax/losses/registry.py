"""Every loss by name, and how it reads what the networks put out."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError, unknown_name
from amdjax.losses import margin_softmax, softmax_variants
from amdjax.losses.afd import AttentionFeatureMatching, summarize
from amdjax.losses.afds import AttentiveFeature
from amdjax.losses.am import am_global_local_loss
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.cc import CorrelationCongruence
from amdjax.losses.ce import cross_entropy
from amdjax.losses.center import Center
from amdjax.losses.dist import dist_loss
from amdjax.losses.dkd import dkd_loss
from amdjax.losses.fitnet import FitNet
from amdjax.losses.ft import ft_loss
from amdjax.losses.kd import kd_loss
from amdjax.losses.nst import nst_loss
from amdjax.losses.pkt import pkt_loss
from amdjax.losses.rkd import rkd_loss
from amdjax.losses.sp import sp_loss
from amdjax.losses.vid import VariationalInformation
from amdjax.models.layers import Outputs

Gather = Callable[[jax.Array], jax.Array]
_STAGES = ("stage1", "stage2", "stage3")


class LossInputs(NamedTuple):
    """All that a loss may read in one step.

    Attributes:
      student: the student's outputs.
      teacher: the teacher's; None where no loss asks for it.
      labels: int [B] or class probabilities [B,C].
      step: int scalar, the steps done before.
      gather: joins the shards of a batch, for losses that see all samples.
    """

    student: Outputs
    teacher: Outputs | None
    labels: jax.Array
    step: jax.Array
    gather: Gather


# How each kind of loss reads its arrays: place -> the arguments of one call. The loss is the mean
# over the calls. A reader's keyword arguments are hyper-parameters too.
Calls = dict[str, tuple]


def _logits_labels(inputs: LossInputs) -> Calls:
    return {"logits": (inputs.student.logits, inputs.labels)}


def _angles_labels(inputs: LossInputs) -> Calls:
    student = inputs.student
    return {"embedding": (student.embedding, student.class_weights, inputs.labels)}


def _angles_labels_step(inputs: LossInputs) -> Calls:
    return {"embedding": (*_angles_labels(inputs)["embedding"], inputs.step)}


def _embedding_labels(inputs: LossInputs) -> Calls:
    student = inputs.student
    return {"embedding": (student.embedding, student.logits, inputs.labels)}


def _both_logits(inputs: LossInputs) -> Calls:
    return {"logits": (inputs.student.logits, inputs.teacher.logits)}


def _both_logits_labels(inputs: LossInputs) -> Calls:
    return {"logits": (inputs.student.logits, inputs.teacher.logits, inputs.labels)}


def _all_logits(inputs: LossInputs) -> Calls:
    return {"logits": tuple(map(inputs.gather, _both_logits(inputs)["logits"]))}


def _all_embeddings(inputs: LossInputs) -> Calls:
    both = (inputs.student.embedding, inputs.teacher.embedding)
    return {"embedding": tuple(map(inputs.gather, both))}


def _both_features(inputs: LossInputs, *, features: tuple[str, ...] = _STAGES) -> Calls:
    if not features:
        raise UserError("a loss has an empty list of features; name at least one")
    for side, outputs in (("student", inputs.student), ("teacher", inputs.teacher)):
        for name in features:
            if name not in outputs.features:
                raise unknown_name(f"feature of the {side}", name, outputs.features)
    return {
        name: (inputs.student.features[name], inputs.teacher.features[name]) for name in features
    }


def _both_maps(inputs: LossInputs, *, features: tuple[str, ...] = _STAGES) -> Calls:
    return _both_features(inputs, features=features)  # of which the loss sees the attention maps


def _both_middle(inputs: LossInputs, *, features: tuple[str, ...] = ("stage2",)) -> Calls:
    return _both_features(inputs, features=features)


def _all_features(inputs: LossInputs, *, features: tuple[str, ...] = _STAGES) -> Calls:
    calls = _both_features(inputs, features=features)
    return {name: tuple(map(inputs.gather, both)) for name, both in calls.items()}


def _all_summaries(inputs: LossInputs, *, features: tuple[str, ...] = ("stem", *_STAGES)) -> Calls:
    both = zip(*_both_features(inputs, features=features).values(), strict=True)
    return {
        "features": tuple(
            [jax.tree.map(inputs.gather, summarize(feature)) for feature in side] for side in both
        )
    }


def _pairs(inputs: LossInputs, *, pair_labels: str = "true") -> Calls:
    if pair_labels not in ("true", "predicted"):
        raise unknown_name("kind of pair_labels", pair_labels, ("true", "predicted"))
    labels = inputs.labels
    if pair_labels == "predicted":
        labels = jnp.argmax(inputs.student.logits, axis=-1)
    return {"embedding": (inputs.gather(inputs.student.embedding), inputs.gather(labels))}


_NO_TEACHER = (_logits_labels, _angles_labels, _angles_labels_step, _embedding_labels, _pairs)
_HARD_LABELS = (
    _angles_labels,
    _angles_labels_step,
    _embedding_labels,
    _both_logits_labels,
    _pairs,
)


# What these read of a teacher fits into memory for every image of a data set.
_SMALL = (*_NO_TEACHER, _both_logits, _both_logits_labels, _all_logits, _all_embeddings, _both_maps)


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """An entry of the registry.

    Attributes:
      function: the loss: a pure function of arrays, or a linen module where it has variables of
        its own. It returns [B], one value for each sample, or a scalar if it sees all samples.
        Keyword arguments (a module's attributes) are hyper-parameters.
      reader: takes the function's arrays from the inputs.
      weight: the published one, where there is one.
      summary: one line for people.
      logits_fn: for a loss that does not predict by the softmax of the logits: (outputs, the loss's
        hyper-parameters) -> the logits that it does predict by.
      end_fraction: default of the share of the epochs after which the loss is switched off.
    """

    function: Callable[..., jax.Array] | type[nn.Module]
    reader: Callable[..., Calls]
    weight: float
    summary: str
    logits_fn: Callable[[Outputs, dict[str, Any]], jax.Array] | None = None
    end_fraction: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's outputs are read."""
        return self.reader not in _NO_TEACHER

    @property
    def attention_only(self) -> bool:
        """Whether of a feature nothing but its attention map is read."""
        return self.reader is _both_maps

    @property
    def uncacheable_losses(self) -> bool:
        """Whether more of the teacher is read than logits, embedding and attention maps."""
        return self.reader not in _SMALL

    @property
    def has_variables(self) -> bool:
        """Whether the loss is a module with variables of its own."""
        return inspect.isclass(self.function)

    def needs_hard_labels(self, reading: dict[str, Any]) -> bool:
        """Returns whether class probabilities cannot take the place of labels."""
        return self.reader in _HARD_LABELS and reading.get("pair_labels") != "predicted"

    def reader_defaults(self) -> dict[str, Any]:
        """Returns the reader's hyper-parameters with their defaults."""
        return _keywords(self.reader)

    def defaults(self) -> dict[str, Any]:
        """Returns the hyper-parameters of `config.losses.<name>` with their defaults."""
        schedule = {"weight": self.weight, "ramp_up_epochs": 0.0, "end_fraction": self.end_fraction}
        return {**schedule, **self.reader_defaults(), **_keywords(self.function)}


def _keywords(function: Callable) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if inspect.isclass(function):  # linen adds these to every module
        parameters = {k: v for k, v in parameters.items() if k not in ("parent", "name")}
    return {k: v.default for k, v in parameters.items() if v.default is not v.empty}


LOSSES: dict[str, LossSpec] = {
    # of the student and the labels
    "ce": LossSpec(cross_entropy, _logits_labels, 1.0, "cross-entropy with the labels"),
    "center": LossSpec(Center, _embedding_labels, 0.003, "center loss"),
    "a_softmax": LossSpec(
        margin_softmax.a_softmax_loss,
        _angles_labels_step,
        1.0,
        "SphereFace's angular softmax, in place of ce",
        lambda outputs, _: margin_softmax.sphere_logits(outputs.embedding, outputs.class_weights),
    ),
    "cosface": LossSpec(
        margin_softmax.cosface_loss,
        _angles_labels,
        1.0,
        "CosFace's margin of the cosine, in place of ce",
        lambda outputs, hyper: margin_softmax.cosine_logits(
            outputs.embedding, outputs.class_weights, hyper["scale"]
        ),
    ),
    "arcface": LossSpec(
        margin_softmax.arcface_loss,
        _angles_labels,
        1.0,
        "ArcFace's margin of the angle, in place of ce",
        lambda outputs, hyper: margin_softmax.cosine_logits(
            outputs.embedding, outputs.class_weights, hyper["scale"]
        ),
    ),
    "spherical_softmax": LossSpec(
        softmax_variants.spherical_softmax_loss,
        _logits_labels,
        1.0,
        "squares in place of exp, in place of ce",
        lambda outputs, hyper: softmax_variants.spherical_scores(outputs.logits, **hyper),
    ),
    "taylor_softmax": LossSpec(
        softmax_variants.taylor_softmax_loss,
        _logits_labels,
        1.0,
        "the Taylor series of exp, in place of ce",
        lambda outputs, hyper: softmax_variants.taylor_scores(outputs.logits, **hyper),
    ),
    "amc": LossSpec(amc_loss, _pairs, 0.1, "angular-margin contrastive loss of pairs"),
    "contrastive": LossSpec(contrastive_loss, _pairs, 0.1, "Euclidean contrastive loss of pairs"),
    # of the logits of student and teacher
    "kd": LossSpec(
        kd_loss, _both_logits, 0.9, "knowledge distillation, T^2 KL(teacher || student)"
    ),
    "eskd": LossSpec(
        kd_loss, _both_logits, 0.9, "kd that ends early, see the method", end_fraction=0.25
    ),
    "dkd": LossSpec(dkd_loss, _both_logits_labels, 1.0, "decoupled knowledge distillation"),
    "dist": LossSpec(dist_loss, _all_logits, 1.0, "DIST, correlation of the probabilities"),
    # of their features
    "am": LossSpec(am_global_local_loss, _both_maps, 5000.0, "angular margin, global and local"),
    "at": LossSpec(at_loss, _both_maps, 1000.0, "attention transfer"),
    "ft": LossSpec(ft_loss, _both_features, 200.0, "factor transfer's distance"),
    "fitnet": LossSpec(FitNet, _both_middle, 1.0, "FitNet's hint, with a trained adapter"),
    "nst": LossSpec(nst_loss, _both_features, 50.0, "neuron selectivity transfer"),
    "vid": LossSpec(VariationalInformation, _both_features, 3.0, "variational information"),
    "afd": LossSpec(AttentionFeatureMatching, _all_summaries, 200.0, "attention-based matching"),
    "afds": LossSpec(AttentiveFeature, _both_features, 500.0, "attentive feature distillation"),
    "sp": LossSpec(sp_loss, _all_features, 3000.0, "similarity preserving"),
    # of their embeddings
    "rkd": LossSpec(rkd_loss, _all_embeddings, 1.0, "relational: distances and angles"),
    "pkt": LossSpec(pkt_loss, _all_embeddings, 30000.0, "probabilistic knowledge transfer"),
    "cc": LossSpec(CorrelationCongruence, _all_embeddings, 0.02, "correlation congruence"),
}
