"""From a config to what a phase minimises: the weighted sum of named losses."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import UserError, unknown_name
from amdjax.losses.registry import LOSSES, LossInputs, LossSpec
from amdjax.models.layers import Outputs
from amdjax.training.optimizer import epoch_of, ramp_up

# The objective's own variables: "params" are trained by gradient, "state" moves by itself.
LossVariables = dict[str, dict[str, Any]]


class Objective(NamedTuple):
    """What a phase minimises.

    Attributes:
      init: (key, inputs) -> variables of the losses that have some, by collection ("params",
        "state"), loss and call; of the inputs only the shapes matter.
      apply: (variables, inputs) -> (total, {name: value}, the new "state" collection). Total and
        values are float32 scalars, the values without their weights. Per-sample losses are
        averaged over this shard's samples.
      predict: outputs -> outputs whose logits' softmax are the predicted probabilities.
      needs_teacher: whether any loss reads the teacher.
      needs_hard_labels: names of the losses that cannot use class probabilities.
      uncacheable_losses: names of the losses that read more of the teacher than its logits,
        embedding and attention maps.
      attention_features: the features whose attention maps are read.
    """

    init: Callable[[jax.Array, LossInputs], LossVariables]
    apply: Callable[[LossVariables, LossInputs], tuple[jax.Array, dict[str, jax.Array], Any]]
    predict: Callable[[Outputs], Outputs]
    needs_teacher: bool
    needs_hard_labels: tuple[str, ...]
    uncacheable_losses: tuple[str, ...]
    attention_features: tuple[str, ...]


class _Term(NamedTuple):
    name: str
    loss: LossSpec
    weight: float
    ramp_up_epochs: float
    end_fraction: float
    reading: dict[str, Any]  # hyper-parameters of the reader
    hyper: dict[str, Any]  # those of the loss


def default_losses() -> ml_collections.ConfigDict:
    """Returns `config.losses`: every loss with its weight and hyper-parameters."""
    return ml_collections.ConfigDict({name: loss.defaults() for name, loss in LOSSES.items()})


def build_objective(
    losses: Mapping[str, Mapping[str, Any]], steps_per_epoch: int = 1, epochs: int = 1
) -> Objective:
    """Builds the weighted sum of losses.

    `total = sum_i weight_i * ramp_i(epoch) * mean(loss_i)`. The ramp is `exp(-5 (1 - e / R)^2)` of
    the whole epochs e done, zero in epoch 0, where `ramp_up_epochs` R is above 0; from the share
    `until` of the epochs on it is zero. A loss of weight zero is not computed.

    Args:
      losses: name -> hyper-parameters, as in `config.losses`; what is left out has its default.
      steps_per_epoch: needed for ramp and end alone.
      epochs: length of the phase, needed for the end alone.

    Returns:
      An `Objective`.

    Raises:
      UserError: on an unknown loss or hyper-parameter, two losses that predict in different ways,
        or if nothing is left to minimise.
    """
    terms = [_term(name, given) for name, given in losses.items()]
    terms = [term for term in terms if term.weight != 0]
    if not terms:
        raise UserError(
            "there is no loss with a weight other than zero; set config.losses.<name>.weight"
        )
    predicting = [term for term in terms if term.loss.logits_fn is not None]
    if len(predicting) > 1:
        names = " and ".join(term.name for term in predicting)
        raise UserError(f"{names} predict in different ways and cannot be added up: take one")

    def predict(outputs: Outputs) -> Outputs:
        for term in predicting:
            outputs = outputs.replace(logits=term.loss.logits_fn(outputs, term.hyper))
        return outputs

    def read(term: _Term, inputs: LossInputs) -> dict[str, tuple]:
        if term.loss.logits_fn is None:
            inputs = inputs._replace(student=predict(inputs.student))
        return term.loss.reader(inputs, **term.reading)

    def init(key: jax.Array, inputs: LossInputs) -> LossVariables:
        variables: LossVariables = {"params": {}, "state": {}}
        for term in terms:
            if not term.loss.has_variables:
                continue
            module = term.loss.function(**term.hyper)
            for layer, arrays in read(term, inputs).items():
                key, own = jax.random.split(key)
                for collection, tree in module.init(own, *arrays).items():
                    variables[collection].setdefault(term.name, {})[layer] = tree
        return variables

    def apply(
        variables: LossVariables, inputs: LossInputs
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        total, parts, state = jnp.zeros((), jnp.float32), {}, {}
        for term in terms:
            values = []
            for layer, arrays in read(term, inputs).items():
                if term.loss.has_variables:
                    own = {
                        name: collection[term.name][layer]
                        for name, collection in variables.items()
                        if term.name in collection
                    }
                    module: nn.Module = term.loss.function(**term.hyper)
                    value, moved = module.apply(own, *arrays, mutable=["state"])
                    if moved:
                        state.setdefault(term.name, {})[layer] = moved["state"]
                else:
                    value = term.loss.function(*arrays, **term.hyper)
                values.append(jnp.mean(value))
            parts[term.name] = sum(values) / len(values)
            total += _weight(term, inputs.step) * parts[term.name]
        return total, parts, state

    def _weight(term: _Term, step: jax.Array) -> jax.Array | float:
        weight, epoch = term.weight, epoch_of(step, steps_per_epoch)
        if term.ramp_up_epochs > 0:
            weight *= jnp.where(epoch < 1, 0.0, ramp_up(epoch, term.ramp_up_epochs))
        if term.end_fraction < 1:
            weight *= jnp.where(epoch < term.end_fraction * epochs, 1.0, 0.0)
        return weight

    return Objective(
        init,
        apply,
        predict,
        any(term.loss.needs_teacher for term in terms),
        tuple(term.name for term in terms if term.loss.needs_hard_labels(term.reading)),
        tuple(term.name for term in terms if term.loss.uncacheable_losses),
        tuple(
            sorted(
                {
                    layer
                    for term in terms
                    if term.loss.attention_only
                    for layer in term.reading["features"]
                }
            )
        ),
    )


def _term(name: str, given: Mapping[str, Any]) -> _Term:
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    loss = LOSSES[name]
    hyper = loss.defaults()
    for key in given:
        if key not in hyper:
            raise unknown_name(f"hyper-parameter of the loss {name}", key, hyper)
    hyper.update(given)
    schedule = {key: hyper.pop(key) for key in ("weight", "ramp_up_epochs", "end_fraction")}
    reading = {key: hyper.pop(key) for key in loss.reader_defaults()}
    return _Term(name, loss, **schedule, reading=reading, hyper=hyper)
