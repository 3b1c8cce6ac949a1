"""From a config to one function: the weighted sum of named losses."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from amdjax.errors import UserError, unknown_name
from amdjax.losses.am import am_global_local_loss
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.ce import cross_entropy
from amdjax.losses.kd import kd_loss
from amdjax.losses.sp import sp_loss
from amdjax.models.layers import Outputs
from amdjax.optim import epoch_of, ramp_up

Gather = Callable[[jax.Array], jax.Array]


class Inputs(NamedTuple):
    """All that a loss may read in one step.

    Attributes:
      student: the student's outputs.
      teacher: the teacher's; None where no loss asks for it.
      labels: int [B] or class probabilities [B,C].
      gather: joins the shards of a batch, for losses that see all samples.
    """

    student: Outputs
    teacher: Outputs | None
    labels: jax.Array
    gather: Gather


# How each kind of loss reads the outputs. A reader's keyword arguments are hyper-parameters too.


def _from_labels(loss: Callable, inputs: Inputs, **hyper: Any) -> jax.Array:
    return loss(inputs.student.logits, inputs.labels, **hyper)


def _from_logits(loss: Callable, inputs: Inputs, **hyper: Any) -> jax.Array:
    return loss(inputs.student.logits, inputs.teacher.logits, **hyper)


def _from_features(
    loss: Callable,
    inputs: Inputs,
    *,
    features: tuple[str, ...] = ("stage1", "stage2", "stage3"),
    **hyper: Any,
) -> jax.Array:
    return _mean_over_features(loss, inputs, features, hyper, gather=lambda x: x)


def _from_all_features(
    loss: Callable,
    inputs: Inputs,
    *,
    features: tuple[str, ...] = ("stage1", "stage2", "stage3"),
    **hyper: Any,
) -> jax.Array:
    return _mean_over_features(loss, inputs, features, hyper, gather=inputs.gather)


def _from_pairs(
    loss: Callable, inputs: Inputs, *, pair_labels: str = "true", **hyper: Any
) -> jax.Array:
    if pair_labels not in ("true", "predicted"):
        raise unknown_name("kind of pair_labels", pair_labels, ("true", "predicted"))
    labels = inputs.labels
    if pair_labels == "predicted":
        labels = jnp.argmax(inputs.student.logits, axis=-1)
    return loss(inputs.gather(inputs.student.embedding), inputs.gather(labels), **hyper)


def _mean_over_features(
    loss: Callable, inputs: Inputs, features: tuple[str, ...], hyper: dict, gather: Gather
) -> jax.Array:
    if not features:
        raise UserError("a loss has an empty list of features; name at least one")
    for side, outputs in (("student", inputs.student), ("teacher", inputs.teacher)):
        for name in features:
            if name not in outputs.features:
                raise unknown_name(f"feature of the {side}", name, outputs.features)
    values = [
        loss(gather(inputs.student.features[name]), gather(inputs.teacher.features[name]), **hyper)
        for name in features
    ]
    return sum(values) / len(values)


@dataclasses.dataclass(frozen=True)
class Loss:
    """An entry of the registry.

    Attributes:
      function: the loss, a pure function of arrays whose keyword arguments are hyper-parameters.
        It returns [B], one value for each sample, or a scalar if it sees all samples.
      reader: takes the function's arrays from the outputs.
      weight: the published one, where there is one.
      summary: one line for people.
    """

    function: Callable[..., jax.Array]
    reader: Callable[..., jax.Array]
    weight: float
    summary: str

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's outputs are read."""
        return self.reader in (_from_logits, _from_features, _from_all_features)

    def defaults(self) -> dict[str, Any]:
        """Returns the hyper-parameters of `config.losses.<name>` with their defaults."""
        return {
            "weight": self.weight,
            "ramp_up_epochs": 0.0,
            **{
                name: parameter.default
                for function in (self.reader, self.function)
                for name, parameter in inspect.signature(function).parameters.items()
                if parameter.default is not parameter.empty
            },
        }


LOSSES: dict[str, Loss] = {
    "ce": Loss(cross_entropy, _from_labels, 1.0, "cross-entropy with the labels"),
    "kd": Loss(kd_loss, _from_logits, 0.9, "knowledge distillation, T^2 KL(teacher || student)"),
    "at": Loss(at_loss, _from_features, 1000.0, "attention transfer"),
    "sp": Loss(sp_loss, _from_all_features, 3000.0, "similarity preserving"),
    "am": Loss(am_global_local_loss, _from_features, 5000.0, "angular margin, global and local"),
    "amc": Loss(amc_loss, _from_pairs, 0.1, "angular-margin contrastive loss of pairs"),
    "contrastive": Loss(contrastive_loss, _from_pairs, 0.1, "Euclidean contrastive loss of pairs"),
}


def default_losses() -> ml_collections.ConfigDict:
    """Returns `config.losses`: every loss with its weight and hyper-parameters."""
    return ml_collections.ConfigDict({name: loss.defaults() for name, loss in LOSSES.items()})


class Objective(NamedTuple):
    """What a phase minimises.

    Attributes:
      apply: (inputs, step) -> (total, {name: value}), float32 scalars; the values are without
        their weights. Per-sample losses are averaged over this shard's samples.
      needs_teacher: whether any loss reads the teacher.
    """

    apply: Callable[[Inputs, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
    needs_teacher: bool


def objective(losses: Mapping[str, Mapping[str, Any]], steps_per_epoch: int = 1) -> Objective:
    """Builds the weighted sum of losses.

    `total = sum_i weight_i * ramp_i(epoch) * mean(loss_i)`, with the ramp `exp(-5 (1 - e / R)^2)`
    of the whole epochs e done, zero in epoch 0, where `ramp_up_epochs` R is above 0. A loss of
    weight zero is not computed.

    Args:
      losses: name -> hyper-parameters, as in `config.losses`; what is left out has its default.
      steps_per_epoch: needed for the ramp alone.

    Returns:
      An `Objective`.

    Raises:
      UserError: on an unknown loss or hyper-parameter, or if nothing is left to minimise.
    """
    terms = []
    for name, given in losses.items():
        if name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
        hyper = LOSSES[name].defaults()
        for key in given:
            if key not in hyper:
                raise unknown_name(f"hyper-parameter of the loss {name}", key, hyper)
        hyper.update(given)
        weight, ramp = hyper.pop("weight"), hyper.pop("ramp_up_epochs")
        if weight != 0:
            terms.append((name, LOSSES[name], weight, ramp, hyper))
    if not terms:
        raise UserError(
            "there is no loss with a weight other than zero; set config.losses.<name>.weight"
        )

    def apply(inputs: Inputs, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        total, parts = jnp.zeros((), jnp.float32), {}
        for name, loss, weight, ramp, hyper in terms:
            parts[name] = jnp.mean(loss.reader(loss.function, inputs, **hyper))
            if ramp > 0:
                epoch = epoch_of(step, steps_per_epoch)
                weight = weight * jnp.where(epoch < 1, 0.0, ramp_up(epoch, ramp))
            total += weight * parts[name]
        return total, parts

    return Objective(apply, any(loss.needs_teacher for _, loss, *_ in terms))
