"""Objective of a training run: the weighted sum of the losses in a config."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.core import FrozenDict

from amdjax.errors import UserError, unknown_name
from amdjax.losses import functional
from amdjax.losses.registry import LOSSES
from amdjax.losses.spec import WEIGHT_SETTINGS, LossInputs, LossSpec
from amdjax.models.layers import Outputs
from amdjax.ramps import epoch_of, gaussian_ramp_up, linear_ramp_up

# Variables of losses, collection -> loss -> call -> tree. "params" are trained by gradient descent,
# "state" is updated without gradients (for instance the centres of the center loss).
LossVariables = dict[str, dict[str, Any]]


RAMPS = ("gaussian", "linear")


@dataclasses.dataclass(frozen=True)
class Term:
    """One loss of an objective with its settings.

    Attributes:
      name: key in `LOSSES`.
      spec: value in `LOSSES`.
      weight: factor of the loss.
      ramp_up_epochs: epochs over which the weight rises; 0: no ramp.
      ramp: shape of the rise, one of `RAMPS`.
      end_fraction: fraction of the epochs after which the weight is `end_weight`.
      end_weight: factor of the loss from then on.
      selection: the settings of `LossSpec.selection_defaults`.
      settings: of the function.
    """

    name: str
    spec: LossSpec
    weight: float
    ramp_up_epochs: float
    ramp: str
    end_fraction: float
    end_weight: float
    selection: FrozenDict[str, Any]
    settings: FrozenDict[str, Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The weighted sum of losses that a training run minimises.

    `total = sum_i weight_i * ramp_i(epoch) * mean(loss_i)`. For `ramp_up_epochs` R above 0, the
    ramp "gaussian" is `exp(-5 (1 - e / R)^2)` of the completed epochs e, zero in epoch 0, and the
    ramp "linear" is `min((e + 1) / R, 1)`. From `end_fraction` of the epochs on, a weight is
    `end_weight`, zero by default.

    Attributes:
      terms: the losses, in the order in which they are added.
      steps_per_epoch: batches in an epoch.
      epochs: length of the training, to which `end_fraction` refers.
      some_unlabeled: whether labels may be -1. A loss of labels is zero for such an image.
    """

    terms: tuple[Term, ...]
    steps_per_epoch: int = 1
    epochs: int = 1
    some_unlabeled: bool = False

    def init(self, key: jax.Array, inputs: LossInputs) -> LossVariables:
        """Initialises the variables of the losses that have variables.

        Args:
          key: random key.
          inputs: arrays of which only the shapes matter.

        Returns:
          The variables; {"params": {}, "state": {}} if no loss has variables.

        Raises:
          UserError: if a loss has variables of another collection.
        """
        variables: LossVariables = {"params": {}, "state": {}}
        inputs = self._with_epoch(inputs)
        for term in self.terms:
            if not term.spec.has_variables:
                continue
            module = term.spec.function(**term.settings)
            with _named(term):
                calls = term.spec.calls(inputs, term.selection)
            for call, arrays in calls.items():
                key, init_key = jax.random.split(key)
                with _named(term):
                    drawn = module.init(init_key, *arrays)
                for collection, tree in drawn.items():
                    if collection not in variables:
                        raise UserError(
                            f"the loss {term.name} has variables of the collection "
                            f"{collection!r}; those of a loss are 'params', which are trained, and "
                            "'state', which it updates itself"
                        )
                    variables[collection].setdefault(term.name, {})[call] = tree
        return variables

    def apply(
        self, variables: LossVariables, inputs: LossInputs
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """Computes the losses of a batch.

        Args:
          variables: from `init`.
          inputs: arrays of the step.

        Returns:
          (total, {name: value}, new "state" collection). Total and values are float32 scalars,
          the values without their weights. Per-sample losses are averaged over this shard.

        Raises:
          UserError: if a loss cannot be computed from the inputs.
        """
        total, parts, state = jnp.zeros((), jnp.float32), {}, {}
        labeled = None
        if self.some_unlabeled:
            labeled = inputs.labels >= 0
            inputs = inputs._replace(labels=jnp.maximum(inputs.labels, 0))
        inputs = self._with_epoch(inputs)
        predicted = self._with_predictions(inputs, variables)
        for term in self.terms:
            values: list[Any] = []
            # A loss without its own logits_fn compares the logits that the student predicts with.
            read = predicted if term.spec.logits_fn is None else inputs
            with _named(term):
                calls = term.spec.calls(read, term.selection)
            for call, arrays in calls.items():
                with _named(term):
                    of_call = _variables_of(variables, term.name, call)
                    value, updates = _compute(term, of_call, arrays)
                    _check_shape(value, inputs)
                if updates:
                    state.setdefault(term.name, {})[call] = updates["state"]
                if labeled is not None and term.spec.reads_labels(term.selection):
                    value = _only_labeled(term, value, labeled)
                values.append(jnp.mean(functional.promote_to_float32(value)))
            parts[term.name] = sum(values) / len(values)
            total += self._weight(term, inputs.step) * parts[term.name]
        return total, parts, state

    def predict(self, outputs: Outputs, variables: LossVariables | None = None) -> Outputs:
        """Returns the outputs with the logits whose softmax are the predicted probabilities.

        Args:
          outputs: of the student.
          variables: of the losses, or `predicting_variables` of them; None where no loss with
            variables defines the prediction.

        Raises:
          ValueError: if the variables are missing that define it.
        """
        for term in self.terms:
            if term.spec.logits_fn is None:
                continue
            if not term.spec.has_variables:
                with _named(term):
                    logits = term.spec.logits_fn(outputs, term.settings)
            elif variables is None:
                raise ValueError(f"the loss {term.name} predicts with variables: pass them")
            else:
                module: Any = term.spec.function
                trees = [collection.get(term.name, {}) for collection in variables.values()]
                (call,) = set().union(*trees)
                logits = module(**term.settings).apply(
                    _variables_of(variables, term.name, call),
                    outputs,
                    term.selection,
                    method=term.spec.logits_fn,
                )
            outputs = outputs.replace(logits=logits)
        return outputs

    def predicting_variables(self, variables: LossVariables) -> LossVariables:
        """Returns those variables of the losses that `predict` reads; {} if it reads none."""
        names = {t.name for t in self.terms if t.spec.has_variables and t.spec.logits_fn}
        if not names:
            return {}
        return {
            collection: {name: trees[name] for name in names & trees.keys()}
            for collection, trees in variables.items()
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether any loss reads outputs of the teacher."""
        return any(term.spec.needs_teacher for term in self.terms)

    @property
    def needs_strong_view(self) -> bool:
        """Whether any loss reads outputs for the strongly augmented view."""
        return any(term.spec.needs_strong_view for term in self.terms)

    @property
    def needs_strong_teacher(self) -> bool:
        """Whether any loss reads the teacher's outputs for that view."""
        return any(
            name.startswith("strong_teacher.") for term in self.terms for name in term.spec.inputs
        )

    @property
    def needs_example_index(self) -> bool:
        """Whether any loss reads the rows of the examples in the training split."""
        return any("example_index" in term.spec.inputs for term in self.terms)

    @property
    def whole_batch_losses(self) -> tuple[str, ...]:
        """Names of the losses whose arrays are gathered from all devices."""
        return tuple(term.name for term in self.terms if term.spec.whole_batch)

    @property
    def label_losses(self) -> tuple[str, ...]:
        """Names of the losses that read labels in any form."""
        return tuple(term.name for term in self.terms if term.spec.reads_labels(term.selection))

    @property
    def label_comparing_losses(self) -> tuple[str, ...]:
        """Names of the losses that read labels and are not a value for each image alone."""
        return tuple(
            term.name
            for term in self.terms
            if term.name in self.label_losses and (term.spec.whole_batch or term.spec.has_variables)
        )

    @property
    def unmixable_losses(self) -> tuple[str, ...]:
        """Names of the losses that cannot be computed for a batch of mixed images."""
        return tuple(
            term.name for term in self.terms if term.spec.refuses_mixed_batches(term.selection)
        )

    @property
    def uncacheable_losses(self) -> tuple[str, ...]:
        """Names of the losses that read outputs of the teacher that the cache does not hold."""
        return tuple(term.name for term in self.terms if term.spec.uncacheable_inputs)

    @property
    def teacher_layers(self) -> tuple[tuple[str, str], ...]:
        """The teacher's layers that are read, as pairs (name of the loss, layer)."""
        return tuple(
            (term.name, layer)
            for term in self.terms
            if any(name.endswith("teacher.features") for name in term.spec.inputs)
            for _, layer in term.spec.layer_pairs(term.selection)
        )

    @property
    def attention_pairs(self) -> tuple[tuple[str, str], ...]:
        """The layers whose attention maps are compared, sorted pairs (student's, teacher's)."""
        pairs = (
            pair
            for term in self.terms
            if term.spec.attention_only and "teacher.features" in term.spec.inputs
            for pair in term.spec.layer_pairs(term.selection)
        )
        return tuple(sorted(set(pairs)))

    @property
    def attention_features(self) -> tuple[str, ...]:
        """Names of the teacher's layers whose attention maps are read, sorted."""
        return tuple(sorted({layer for _, layer in self.attention_pairs}))

    def pooled_pair(self, student: Outputs, teacher: Outputs) -> tuple[str, str] | None:
        """Returns the first of the `attention_pairs` whose map of the teacher is the larger one.

        The loss pools such a map before it takes the attention map, so that an attention map that
        was computed before cannot replace it. Without such a pair the result is None.

        Args:
          student: its outputs, of which only shapes matter.
          teacher: likewise.
        """
        for pair in self.attention_pairs:
            ours, theirs = student.features[pair[0]].shape, teacher.features[pair[1]].shape
            if theirs[1] > ours[1] or theirs[2] > ours[2]:
                return pair
        return None

    def _with_epoch(self, inputs: LossInputs) -> LossInputs:
        return inputs._replace(epoch=epoch_of(inputs.step, self.steps_per_epoch))

    def _with_predictions(self, inputs: LossInputs, variables: LossVariables) -> LossInputs:
        """Replaces the student's logits by those that it predicts with, see `predict`."""
        strong = inputs.strong_student
        return inputs._replace(
            student=self.predict(inputs.student, variables),
            strong_student=None if strong is None else self.predict(strong, variables),
        )

    def _weight(self, term: Term, step: jax.Array) -> jax.Array | float:
        weight, epoch = term.weight, epoch_of(step, self.steps_per_epoch)
        if term.ramp_up_epochs > 0:
            if term.ramp == "linear":
                weight *= linear_ramp_up(epoch, term.ramp_up_epochs)
            else:
                weight *= jnp.where(epoch < 1, 0.0, gaussian_ramp_up(epoch, term.ramp_up_epochs))
        if term.end_fraction < 1:
            weight = jnp.where(epoch < term.end_fraction * self.epochs, weight, term.end_weight)
        return weight


@contextlib.contextmanager
def _named(term: Term) -> Iterator[None]:
    """Adds the name of the loss to the message of a `UserError` that is raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the loss {term.name}: {error}") from error


def _compute(term: Term, variables: dict[str, Any], arrays: tuple) -> tuple[jax.Array, Any]:
    """Returns the value of one call of a loss, [B] or a scalar, and what it updates."""
    function: Any = term.spec.function
    if not term.spec.has_variables:
        return function(*arrays, **term.settings), {}
    return function(**term.settings).apply(variables, *arrays, mutable=["state"])


def _check_shape(value: jax.Array, inputs: LossInputs) -> None:
    """Makes sure that a loss is a scalar or has a value for each image; others may lack a sum.

    Args:
      value: of the loss.
      inputs: of the losses; one that gathers the images of all shards may return a value for each.

    Raises:
      UserError: if it has another shape.
    """
    shape, logits = jnp.shape(value), inputs.student.logits
    if shape in ((), (len(logits),)) or shape == (len(jax.eval_shape(inputs.gather, logits)),):
        return
    raise UserError(
        f"its value has the shape {list(shape)}; it must be one value for each "
        f"image, [{len(logits)}] here, or their mean, []"
    )


def _only_labeled(term: Term, value: jax.Array, labeled: jax.Array) -> jax.Array:
    """Returns the value [B] of a loss of labels, zero where `labeled`, bool [B], is False."""
    if jnp.shape(value) != labeled.shape:
        raise UserError(
            f"the loss {term.name} reads labels and returns an array of shape "
            f"{list(jnp.shape(value))}; with config.data.unlabeled it must return one value for "
            "each image, [B]"
        )
    return jnp.where(labeled, value, 0.0)


def default_losses() -> ml_collections.ConfigDict:
    """Returns `config.losses`: the default settings of every registered loss."""
    return ml_collections.ConfigDict({name: spec.defaults() for name, spec in LOSSES.items()})


def build_objective(
    losses: Mapping[str, Mapping[str, Any]],
    steps_per_epoch: int = 1,
    epochs: int = 1,
    some_unlabeled: bool = False,
) -> Objective:
    """Builds the objective of a config from the losses that are computed, see `is_computed`.

    Args:
      losses: name -> settings, as in `config.losses`; missing ones have their default.
      steps_per_epoch: batches in an epoch; matters only for `ramp_up_epochs` and `end_fraction`.
      epochs: length of the training; matters only for `end_fraction`.
      some_unlabeled: whether labels may be -1.

    Returns:
      An `Objective`.

    Raises:
      UserError: on an unknown loss or setting, one that is not of the kind of its default,
        on two losses that define different predictions, or if no loss has a weight other than zero.
    """
    terms = [_term(name, settings) for name, settings in losses.items()]
    terms = [term for term in terms if is_computed(term.name, losses[term.name])]
    if not terms:
        raise UserError("no loss has a weight other than zero; set config.losses.<name>.weight")
    predicting = [term.name for term in terms if term.spec.logits_fn is not None]
    if len(predicting) > 1:
        raise UserError(
            f"{' and '.join(predicting)} define different predictions and cannot be combined; "
            "choose one of them"
        )
    return Objective(tuple(terms), steps_per_epoch, epochs, some_unlabeled)


def build_prediction_rule(losses: Mapping[str, Mapping[str, Any]]) -> Objective:
    """Builds the objective of losses that define the prediction, of which only that is used.

    Args:
      losses: name -> settings, at most one; without any the logits are the network's.
    """
    return Objective(tuple(_term(name, settings) for name, settings in losses.items()))


def is_computed(name: str, settings: Mapping[str, Any]) -> bool:
    """Returns whether a loss has a weight other than zero, in all steps or after `end_fraction`.

    Args:
      name: of a registered loss.
      settings: of the loss; missing ones have their default.
    """
    values = {**LOSSES[name].defaults(), **settings}
    return bool(values["weight"] or (values["end_fraction"] < 1 and values["end_weight"]))


def _term(name: str, settings: Mapping[str, Any]) -> Term:
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    spec = LOSSES[name]
    values = spec.defaults()
    for key, value in settings.items():
        if key not in values:
            raise unknown_name(f"setting of the loss {name}", key, values)
        _check_kind(f"the setting {key} of the loss {name}", value, values[key])
    values.update({key: _hashable(value) for key, value in settings.items()})
    schedule = {key: values.pop(key) for key in ("weight", *WEIGHT_SETTINGS)}
    if schedule["ramp"] not in RAMPS:
        raise unknown_name(f"ramp of the loss {name}", schedule["ramp"], RAMPS)
    selection = {key: values.pop(key) for key in spec.selection_defaults()}
    for key in ("features", "teacher_features"):
        for layer in selection.get(key, ()):
            if not isinstance(layer, str):
                raise UserError(
                    f"the setting {key} of the loss {name} must have names of layers, not {layer!r}"
                )
    return Term(
        name, spec, **schedule, selection=FrozenDict(selection), settings=FrozenDict(values)
    )


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Makes sure that a setting is a number, a text or a tuple, as its default is."""
    if default is None:
        return  # this says nothing of other values

    def kind(value: Any) -> str:
        if value is None:
            return "None"
        if isinstance(value, str):
            return "a text"
        return "a tuple" if isinstance(value, list | tuple) else "a number"

    if kind(value) != kind(default):
        wanted = "True or False" if isinstance(default, bool) else kind(default)
        raise UserError(f"{name} must be {wanted}, not {value!r}")


def _variables_of(variables: LossVariables, loss: str, call: str) -> dict[str, Any]:
    """Returns the variables of one call of a loss, collection -> tree."""
    return {
        name: collection[loss][call] for name, collection in variables.items() if loss in collection
    }


def _hashable(value: Any) -> Any:
    """Returns a setting with tuples in place of lists, which JSON has and `Term` cannot hash."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
