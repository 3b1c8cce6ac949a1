"""`LossSpec`: what a loss reads, and how it is called."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError, unknown_name
from amdjax.models.layers import STAGES, Outputs

_PAIR_LABELS = ("true", "predicted")

# The settings of a weight, see `Objective`.
WEIGHT_SETTINGS = ("ramp_up_epochs", "ramp", "end_fraction", "end_weight")

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
        them, as are `key`, `strong_student` and `strong_teacher`.
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
        loss is the mean over the layers that the setting `features` names; the teacher's
        have the same names, unless `teacher_features` gives others.
      "strong_student.logits", "strong_teacher.logits" and so on: the same outputs for a second,
        strongly augmented view of each image, see `config.augment.strong_policy`; the loss is
        refused with mixed batches.
      "labels": int [B], or class probabilities [B,C] if the batch is mixed.
      "hard_labels": int [B]; the loss is refused with mixed batches.
      "pair_labels": int [B], the true classes, or the argmax of the student's logits with the
        setting `pair_labels="predicted"`.
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
        attributes of a module) are settings.
      inputs: names of the arrays that the function reads.
      weight: default weight, the published one if there is one.
      summary: description in one line, for `--list`.
      ramp_up_epochs: default of this setting, the epochs in which the weight rises.
      ramp: default of this setting, the form of that rise: "gaussian" or "linear".
      features: default of the setting `features`, the layers to compare.
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
        (outputs, settings of the loss) -> the logits to predict with. For a module, its
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
    ramp_up_epochs: float = 0.0
    ramp: str = "gaussian"
    features: tuple[str, ...] = STAGES
    whole_batch: bool = False
    pairs_halves: bool = False
    attention_only: bool = False
    layers_together: bool = False
    reduce: Callable[[jax.Array], Any] | None = None
    logits_fn: Callable[..., jax.Array] | None = None

    def __post_init__(self) -> None:
        """Checks the names of the inputs; lists of names become tuples, which are hashable."""
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
        """Whether the loss reads features, and so has the setting `features`."""
        return any(name.endswith(".features") for name in self.inputs)

    @property
    def uncacheable_inputs(self) -> tuple[str, ...]:
        """What the loss reads of the teacher beyond what a teacher cache or a file of outputs has.

        These hold logits, embeddings and attention maps of unchanged images.
        """
        cached = (*_CACHED, "teacher.features") if self.attention_only else _CACHED
        return tuple(
            name for name in self.inputs if name.startswith(_OF_TEACHER) and name not in cached
        )

    @property
    def has_variables(self) -> bool:
        """Whether the loss is a linen module."""
        return inspect.isclass(self.function)

    def refuses_mixed_batches(self, selection: Mapping[str, Any]) -> bool:
        """Returns whether the loss cannot be computed for a batch of mixed images.

        It reads classes, not probabilities, or the second view of the images, which is not mixed.

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
        """Returns the settings that select inputs.

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
        """Returns the settings of `config.losses.<name>` with their defaults."""
        schedule = {
            "weight": self.weight,
            "ramp_up_epochs": self.ramp_up_epochs,
            "ramp": self.ramp,
            "end_fraction": 1.0,
            "end_weight": 0.0,
        }
        return {**schedule, **self.selection_defaults(), **keyword_defaults(self.function)}

    def calls(self, inputs: LossInputs, selection: Mapping[str, Any]) -> dict[str, tuple]:
        """Returns the arguments of each call of the function; the loss is the mean over the calls.

        Args:
          inputs: the arrays of the step.
          selection: settings of `selection_defaults`; missing ones have their default.

        Returns:
          name of the call -> positional arguments. A call is named after the student's layer, with
          the teacher's where that has a call already, or after its first input ("logits",
          "embedding", "features") if the function is called once.

        Raises:
          UserError: if a layer does not exist, `features` is empty or names a pair of layers twice,
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
                f"teacher_features {len(teacher)} of the teacher ({', '.join(teacher)}): name "
                "equally many"
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


def keyword_defaults(function: Callable) -> dict[str, Any]:
    """Returns the arguments of a function that have a default, or the attributes of a module."""
    parameters = inspect.signature(function).parameters
    if inspect.isclass(function):  # linen adds these two to every module
        parameters = {k: v for k, v in parameters.items() if k not in ("parent", "name")}
    return {k: v.default for k, v in parameters.items() if v.default is not v.empty}
