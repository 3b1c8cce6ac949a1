"""Loss registry: the function, the declared inputs and the published weight of each loss."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError, unknown_name
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
from amdjax.losses.ttm import ttm_loss, wttm_loss
from amdjax.losses.vid import VariationalInformation
from amdjax.losses.wkd import WassersteinFeature, wkd_class_weight_loss
from amdjax.models.layers import Outputs
from amdjax.registry import register

_STAGES = ("stage1", "stage2", "stage3")
_PAIR_LABELS = ("true", "predicted")

SCHEDULE = ("ramp_up_epochs", "ramp", "end_fraction")  # the settings of a weight, see `Objective`

_STRONG_VIEW = ("strong_student", "strong_teacher")
_SIDES = ("student", "teacher", *_STRONG_VIEW)
_OF_TEACHER = ("teacher.", "strong_teacher.")
_CONTEXT = ("step", "epoch", "num_examples", "key")  # of the step, not of its examples
_INPUT_NAMES = (
    *(f"{side}.{field.name}" for side in _SIDES for field in dataclasses.fields(Outputs)),
    *("labels", "hard_labels", "pair_labels", "example_index", *_CONTEXT),
)
# The inputs without a batch axis: the same on every shard.
_UNBATCHED = (
    *(f"{side}.{field}" for side in _SIDES for field in ("class_weights", "class_bias")),
    *_CONTEXT,
)
# The teacher's outputs that the teacher cache keeps whole; of the features it keeps attention maps.
_CACHED = ("teacher.logits", "teacher.embedding")


class LossInputs(NamedTuple):
    """The arrays of one training step that losses can read.

    Attributes:
      student: outputs of the student.
      teacher: outputs of the teacher; None if no loss needs them.
      labels: int [B] or class probabilities [B,C].
      step: int scalar, the number of completed steps.
      gather: concatenates the shards of an array along the batch axis.
      epoch: float32 scalar, the number of completed epochs; the objective derives it from the step.
      example_index: int [B], the rows of the examples in the training split; None if no loss needs
        them, as all that follow.
      num_examples: number of examples in the training split.
      key: random key of the step, the same on every shard.
      strong_student: outputs of the student for the strongly augmented view of the images.
      strong_teacher: outputs of the teacher for that view.
    """

    student: Outputs
    teacher: Outputs | None
    labels: jax.Array
    step: jax.Array
    gather: Callable[[jax.Array], jax.Array]
    epoch: jax.Array | None = None
    example_index: jax.Array | None = None
    num_examples: int = 0
    key: jax.Array | None = None
    strong_student: Outputs | None = None
    strong_teacher: Outputs | None = None


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """A loss and the inputs that it reads.

    The names in `inputs` are passed to the function as positional arguments, in this order:

      "student.logits", "teacher.logits": float32 [B,C].
      "student.embedding", "teacher.embedding": float32 [B,D], the input of the classifier.
      "student.class_weights", "teacher.class_weights": float32 [D,C], the classifier's kernel.
      "student.class_bias", "teacher.class_bias": float32 [C], the classifier's bias.
      "student.features", "teacher.features": [B,H,W,C] of one layer in the compute dtype. The
        loss is the mean over the layers that the hyper-parameter `features` names; the teacher's
        have the same names, unless `teacher_features` gives others.
      "strong_student.logits", "strong_teacher.logits" and so on: the same outputs for a second,
        strongly augmented view of each image, see `config.augment.strong_policy`; the loss is
        refused with mixed batches.
      "labels": int [B], or class probabilities [B,C] if the batch is mixed.
      "hard_labels": int [B]; the loss is refused with mixed batches.
      "pair_labels": int [B], the true classes, or the argmax of the student's logits with the
        hyper-parameter `pair_labels="predicted"`.
      "step": int scalar, the number of completed steps.
      "epoch": float32 scalar, the number of completed epochs.
      "example_index": int [B], the row of each example in the training split.
      "num_examples": int, the number of rows of the training split.
      "key": a random key for this step, the same on every device.

    `register_loss` adds a loss from outside the package.

    Attributes:
      function: a pure function of arrays, or the class of a linen module for a loss with
        variables: "params" are trained with the student, "state" is updated without gradients.
        It returns [B], one value for each sample, or a scalar. Arguments with a default (the
        attributes of a module) are hyper-parameters.
      inputs: names of the arrays that the function reads.
      weight: default weight, the published one if there is one.
      summary: description in one line, for `--list`.
      warm_up_epochs: epochs of the published linear warm-up, the default of the hyper-parameter
        `ramp_up_epochs`.
      features: default of the hyper-parameter `features`, the layers to compare.
      whole_batch: gather the arrays of all shards, for losses that compare samples. Variables of
        the collection "state" are then equal on all devices. Those of a loss that is not
        `whole_batch` are averaged over the devices and must be floating-point.
      pairs_halves: the function compares the first half of a batch with the second, so that the
        number of images in each part of a batch must be even.
      attention_only: the function depends on a feature only through its attention map
        `sum_c f^2`, so that the cached map can replace the teacher's feature.
      layers_together: call the function once, with a list of features for each side, instead of
        once for each layer.
      reduce: applied to each feature before it is gathered; may return a pytree.
      logits_fn: for a loss whose predictions are not the softmax of the model's logits:
        (outputs, hyper-parameters of the loss) -> the logits to predict with. For a module, its
        method (outputs, values of `selection_defaults`) -> logits; it can be used after the first
        step, with one call of the module.

    Raises:
      UserError: if `inputs` is empty or contains an unknown name, or if it or `features` is a str.
    """

    function: Callable[..., jax.Array] | type[nn.Module]
    _: dataclasses.KW_ONLY
    inputs: tuple[str, ...]
    weight: float = 1.0
    summary: str = ""
    warm_up_epochs: float = 0.0
    features: tuple[str, ...] = _STAGES
    whole_batch: bool = False
    pairs_halves: bool = False
    attention_only: bool = False
    layers_together: bool = False
    reduce: Callable[[jax.Array], Any] | None = None
    logits_fn: Callable[..., jax.Array] | None = None

    def __post_init__(self) -> None:
        """Checks the names of the inputs; lists of names become tuples, which have a hash."""
        for field in ("inputs", "features"):
            names = getattr(self, field)
            if isinstance(names, str):
                raise UserError(f"the {field} of a loss are a tuple, ({names!r},)")
            object.__setattr__(self, field, tuple(names))
        if not self.inputs:
            raise UserError(f"a loss needs at least one input; known: {', '.join(_INPUT_NAMES)}")
        for name in self.inputs:
            if name not in _INPUT_NAMES:
                raise unknown_name("loss input", name, _INPUT_NAMES)

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss reads outputs of the teacher."""
        return any(name.startswith(_OF_TEACHER) for name in self.inputs)

    @property
    def needs_strong_view(self) -> bool:
        """Whether the loss reads outputs for the strongly augmented view."""
        return any(name.startswith(_STRONG_VIEW) for name in self.inputs)

    @property
    def reads_features(self) -> bool:
        """Whether the loss reads features, and so has the hyper-parameter `features`."""
        return any(name.endswith(".features") for name in self.inputs)

    @property
    def cacheable(self) -> bool:
        """Whether the teacher cache holds all that the loss reads of the teacher."""
        cached = (*_CACHED, "teacher.features") if self.attention_only else _CACHED
        return all(name in cached for name in self.inputs if name.startswith(_OF_TEACHER))

    @property
    def has_variables(self) -> bool:
        """Whether the loss is a linen module."""
        return inspect.isclass(self.function)

    def needs_hard_labels(self, selection: Mapping[str, Any]) -> bool:
        """Returns whether the loss cannot use class probabilities as labels.

        Args:
          selection: as for `calls`.
        """
        return (
            "hard_labels" in self.inputs
            or self._reads_true_pairs(selection)
            or self.needs_strong_view
        )

    def reads_labels(self, selection: Mapping[str, Any]) -> bool:
        """Returns whether the loss reads the labels of the images, in any form.

        Args:
          selection: as for `calls`.
        """
        labels = {"labels", "hard_labels"} & set(self.inputs)
        return bool(labels) or self._reads_true_pairs(selection)

    def _reads_true_pairs(self, selection: Mapping[str, Any]) -> bool:
        return "pair_labels" in self.inputs and selection.get("pair_labels") != "predicted"

    def selection_defaults(self) -> dict[str, Any]:
        """Returns the hyper-parameters that select inputs.

        These are `features`, `teacher_features` (empty: the same layers) and `pair_labels`.
        """
        defaults: dict[str, Any] = {}
        if self.reads_features:
            defaults["features"] = self.features
            if self.needs_teacher:
                defaults["teacher_features"] = ()
        if "pair_labels" in self.inputs:
            defaults["pair_labels"] = "true"
        return defaults

    def defaults(self) -> dict[str, Any]:
        """Returns the hyper-parameters of `config.losses.<name>` with their defaults."""
        schedule = {
            "weight": self.weight,
            "ramp_up_epochs": self.warm_up_epochs,
            "ramp": "linear" if self.warm_up_epochs else "gaussian",
            "end_fraction": 1.0,
        }
        return {**schedule, **self.selection_defaults(), **_keyword_defaults(self.function)}

    def calls(self, inputs: LossInputs, selection: Mapping[str, Any]) -> dict[str, tuple]:
        """Returns the arguments of each call of the function; the loss is the mean over the calls.

        Args:
          inputs: the arrays of the step.
          selection: hyper-parameters of `selection_defaults`; missing ones have their default.

        Returns:
          name of the call -> positional arguments. A call is named after the student's layer, with
          the teacher's where that has a call already, or after its first input ("logits",
          "embedding", "features") if the function is called once.

        Raises:
          UserError: if a layer does not exist, `features` is empty or names two layers twice,
            `teacher_features` has another length or `pair_labels` is unknown.
        """
        selection = {**self.selection_defaults(), **selection}
        pairs = self.layer_pairs(selection)
        if self.reads_features:
            self._check_layers(inputs, pairs)
        if self.reads_features and not self.layers_together:
            groups = {}
            for pair in pairs:  # a layer of the student may be compared with several
                groups["-".join(pair) if pair[0] in groups else pair[0]] = (pair,)
        else:
            groups = {self.inputs[0].rpartition(".")[2]: pairs}
        pair_labels = selection.get("pair_labels", "true")
        return {
            call: tuple(self._argument(name, inputs, group, pair_labels) for name in self.inputs)
            for call, group in groups.items()
        }

    def layer_pairs(self, selection: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Returns the layers to compare, as pairs of the student's and the teacher's name.

        Args:
          selection: as for `calls`.

        Raises:
          UserError: if `features` and `teacher_features` differ in length.
        """
        student = tuple(selection.get("features", ()))
        teacher = tuple(selection.get("teacher_features", ())) or student
        if len(student) != len(teacher):
            raise UserError(
                f"features names {len(student)} layers of the student ({', '.join(student)}) and "
                f"teacher_features {len(teacher)} of the teacher ({', '.join(teacher)}): name as "
                "many"
            )
        return tuple(zip(student, teacher, strict=True))

    def _argument(
        self, name: str, inputs: LossInputs, pairs: tuple[tuple[str, str], ...], pair_labels: str
    ) -> Any:
        def gather(x: Any) -> Any:
            if self.whole_batch and name not in _UNBATCHED:
                return jax.tree.map(inputs.gather, x)
            return x

        side, _, field = name.rpartition(".")
        if field == "features":
            of_teacher = side.endswith("teacher")
            features = [getattr(inputs, side).features[pair[of_teacher]] for pair in pairs]
            features = [gather(x if self.reduce is None else self.reduce(x)) for x in features]
            return features if self.layers_together else features[0]
        if side:
            value = getattr(getattr(inputs, side), field)
            if value is None:
                raise UserError(f"the {side} has no {field}, which the loss reads")
            return gather(value)
        if name == "pair_labels":
            return gather(_pair_labels(inputs, pair_labels))
        return gather(inputs.labels if name == "hard_labels" else getattr(inputs, name))

    def _check_layers(self, inputs: LossInputs, pairs: tuple[tuple[str, str], ...]) -> None:
        if not pairs:
            raise UserError("the list of features of a loss is empty; name at least one layer")
        if len(set(pairs)) < len(pairs):
            named = ", ".join(" and ".join(pair) for pair in pairs)
            raise UserError(f"features and teacher_features name layers twice: {named}")
        for side in _SIDES:
            if f"{side}.features" not in self.inputs:
                continue
            known, of_teacher = getattr(inputs, side).features, side.endswith("teacher")
            for pair in pairs:
                if pair[of_teacher] not in known:
                    name = "teacher" if of_teacher else "student"
                    raise UserError(
                        f"unknown feature of the {name} {pair[of_teacher]!r}; the {name} has "
                        f"{', '.join(known) or 'none'}"
                    )


def _pair_labels(inputs: LossInputs, pair_labels: str) -> jax.Array:
    if pair_labels not in _PAIR_LABELS:
        raise unknown_name("value of pair_labels", pair_labels, _PAIR_LABELS)
    if pair_labels == "predicted":
        return jnp.argmax(inputs.student.logits, axis=-1)
    return inputs.labels


def _keyword_defaults(function: Callable) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if inspect.isclass(function):  # linen adds these two to every module
        parameters = {k: v for k, v in parameters.items() if k not in ("parent", "name")}
    return {k: v.default for k, v in parameters.items() if v.default is not v.empty}


def _class_weights(outputs: Outputs) -> jax.Array:
    if outputs.class_weights is None:
        raise UserError("the student has no class_weights, from which the loss predicts")
    return outputs.class_weights


def _sphere_logits(outputs: Outputs, _: Mapping[str, Any]) -> jax.Array:
    return margin_softmax.sphere_logits(outputs.embedding, _class_weights(outputs))


def _cosine_logits(outputs: Outputs, hyper: Mapping[str, Any]) -> jax.Array:
    return margin_softmax.cosine_logits(outputs.embedding, _class_weights(outputs), hyper["scale"])


def _spherical_scores(outputs: Outputs, hyper: Mapping[str, Any]) -> jax.Array:
    return softmax_variants.spherical_scores(outputs.logits, **hyper)


def _taylor_scores(outputs: Outputs, hyper: Mapping[str, Any]) -> jax.Array:
    return softmax_variants.taylor_scores(outputs.logits, **hyper)


_LOGITS = ("student.logits", "teacher.logits")
_STRONG_LOGITS = ("strong_student.logits", "strong_teacher.logits")
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
        warm_up_epochs=20.0,
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
        warm_up_epochs=20.0,
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
        inputs=("student.logits", "strong_student.logits", *_LOGITS[1:], *_STRONG_LOGITS[1:]),
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
        features=("stem", *_STAGES),
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
        features=("stem", *_STAGES),
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
        warm_up_epochs=20.0,
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
        arrays, or a default cannot be a setting.
    """

    def decorate(function: _Loss) -> _Loss:
        spec = LossSpec(function, inputs=inputs, summary=summary, **options)
        _check_arguments(name, spec)
        register(LOSSES, "loss", name, spec, function)
        return function

    return decorate


def _check_arguments(name: str, spec: LossSpec) -> None:
    """Makes sure that a function takes its inputs, and that its defaults can be settings."""
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
    reserved = {"weight", *SCHEDULE, *spec.selection_defaults()}
    for key, value in _keyword_defaults(spec.function).items():
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
