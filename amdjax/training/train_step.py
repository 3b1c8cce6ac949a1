"""The training step: a pure function of one device's shard."""

import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from amdjax import distributed
from amdjax.data import Batch
from amdjax.data.augment import Augment, draw_flips
from amdjax.data.mixing import Mix, MixedBatch
from amdjax.losses import LossInputs, LossVariables, Objective
from amdjax.models import Model, Outputs
from amdjax.training.train_state import TrainState

# The key of a step is folded with the numbers of the examples, and for other uses with this number
# and those above it.
_FIRST_USE = 2**31


def make_train_step(
    *,
    student: Model,
    teacher: Model | None,
    objective: Objective,
    augment: Augment,
    optimizer: optax.GradientTransformation,
    mix: Mix | None = None,
    teacher_sees_mixed: bool = True,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    strong_augment: Augment | None = None,
    num_examples: int = 0,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Creates the train step of a run.

    Args:
      student: the network that is trained.
      teacher: the network that it learns from, in evaluation mode; None where no loss reads it.
      objective: what is minimised.
      augment: (keys [b], uint8 images) -> float images.
      optimizer: from `create_optimizer`.
      mix: from `create_mix`; None: examples are not mixed.
      teacher_sees_mixed: whether the teacher's input is the mixed image, else the image alone.
      ema_decay: d of `ema = d * ema + (1 - d) * new`, where the state has averages.
      accumulate: number of parts in which the gradient is computed, one after the other. The
        gradient and the metrics are means over the parts; batch norm, mixing and losses that
        compare examples see a part, and running statistics are updated by each part. All parts
        are mixed with the same weight or box.
      strong_augment: as `augment`, for the second view of the images, which some losses compare;
        None where none does.
      num_examples: number of images in the training split, for losses that read it.

    Returns:
      `step(state, teacher_variables, batch, seed) -> (state, metrics)`, to be mapped with
      `distributed.shard_step`. `batch` has "image" uint8 [b,H,W,3], "label" int32 [b] and, if the
      teacher's outputs are cached, these as "teacher", see `lookup_teacher_outputs`, and "index"
      int32 [b], the rows of the training split, if a loss needs them. All random numbers come
      from `fold_in(key(seed), state.step)`. The metrics are float32 scalars: "loss", one for each
      loss by name and "accuracy" (of the images' labels, mixed or not), means over the global
      batch, and "grad_norm" and "param_norm", L2 norms of the gradient and of the new parameters.
    """

    def step(
        state: TrainState, teacher_variables: Any, batch: Batch, seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        example_keys = distributed.example_keys(key, len(batch["label"]))
        mix_key, dropout_key, loss_key = (jax.random.fold_in(key, _FIRST_USE + i) for i in range(3))
        if student.axis_name is None:  # the network cannot tell the shards apart itself
            dropout_key = distributed.shard_key(dropout_key)
        apply_teacher: Any = None
        if teacher is not None:
            apply_teacher = functools.partial(teacher.apply, teacher_variables, train=False)

        def gradients(
            batch: Batch,
            example_keys: jax.Array,
            batch_stats: Any,
            loss_state: Any,
            dropout_key: jax.Array,
            loss_key: jax.Array,
        ) -> tuple[Any, tuple[dict[str, jax.Array], Any, Any]]:
            """Returns the gradient of some examples, and (metrics, batch_stats, loss state)."""
            views = _views(
                batch,
                example_keys,
                augment=augment,
                mix=None if mix is None else lambda x, y: mix(mix_key, x, y, student.num_classes),
                strong_augment=strong_augment,
                apply_teacher=apply_teacher,
                teacher_sees_mixed=teacher_sees_mixed,
                needs_strong_teacher=objective.needs_strong_teacher,
            )

            def loss_fn(trainable: dict[str, Any]) -> tuple[jax.Array, tuple]:
                variables = {"params": trainable["model"], "batch_stats": batch_stats}
                outputs, strong_outputs, new_batch_stats = _apply_student(
                    student, variables, views, dropout_key
                )
                inputs = LossInputs(
                    outputs,
                    views.teacher,
                    views.mixed.labels,
                    state.step,
                    distributed.all_gather,
                    example_index=batch.get("index"),
                    num_examples=num_examples,
                    key=loss_key,
                    strong_student=strong_outputs,
                    strong_teacher=views.strong_teacher,
                )
                loss_variables = {"params": trainable["losses"], "state": loss_state}
                metrics, new_loss_state = _compute_losses(
                    objective, loss_variables, inputs, batch["label"]
                )
                return metrics["loss"], (metrics, new_batch_stats, new_loss_state)

            return jax.grad(loss_fn, has_aux=True)(state.trainable)

        keys = (dropout_key, loss_key)
        examples = (batch, example_keys)
        statistics = (state.batch_stats, state.loss_variables["state"])
        if accumulate == 1:
            grads, aux = gradients(*examples, *statistics, *keys)
        else:
            grads, aux = _accumulate(
                gradients, accumulate, examples, statistics, keys, objective.whole_batch_losses
            )
        grads, metrics, batch_stats, loss_state = _average(
            grads, *aux, objective.whole_batch_losses
        )
        new_state, norms = _update(state, grads, batch_stats, loss_state, optimizer, ema_decay)
        return new_state, metrics | norms

    return step


class _Views(NamedTuple):
    """The views of some examples, and the teacher's outputs for them.

    Attributes:
      mixed: what the student sees, and its labels.
      teacher: the teacher's outputs; None where no loss reads them.
      strong_images: the second view of the images; None where no loss reads outputs for it.
      strong_teacher: the teacher's outputs for that view; None where no loss reads them.
    """

    mixed: MixedBatch
    teacher: Outputs | None
    strong_images: jax.Array | None
    strong_teacher: Outputs | None


def _views(
    batch: Batch,
    example_keys: jax.Array,
    *,
    augment: Augment,
    mix: Callable[[jax.Array, jax.Array], MixedBatch] | None,
    strong_augment: Augment | None,
    apply_teacher: Callable[[jax.Array], Outputs] | None,
    teacher_sees_mixed: bool,
    needs_strong_teacher: bool,
) -> _Views:
    """Augments and mixes images, and computes or looks up the teacher's outputs for them.

    Args:
      batch: see `make_train_step`.
      example_keys: random keys [b].
      augment: see `make_train_step`.
      mix: (images, labels) -> mixed batch; None: they are not mixed.
      strong_augment: see `make_train_step`.
      apply_teacher: images -> outputs; None where there is no network.
      teacher_sees_mixed: see `make_train_step`.
      needs_strong_teacher: whether a loss reads the teacher's outputs for the second view.
    """
    images = augment(example_keys, batch["image"])
    mixed = MixedBatch(images, batch["label"], None)
    if mix is not None:
        mixed = mix(images, batch["label"])
    teacher: Outputs | None = None
    if "teacher" in batch:
        teacher = lookup_teacher_outputs(batch["teacher"], example_keys)
    elif apply_teacher is not None:
        teacher = apply_teacher(mixed.images if teacher_sees_mixed else images)
    if strong_augment is None:
        return _Views(mixed, teacher, None, None)
    strong_keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, _FIRST_USE)
    strong_images = strong_augment(strong_keys, batch["image"])
    strong_teacher: Outputs | None = None
    if needs_strong_teacher and apply_teacher is not None:
        strong_teacher = apply_teacher(strong_images)
    return _Views(mixed, teacher, strong_images, strong_teacher)


def _apply_student(
    student: Model, variables: dict[str, Any], views: _Views, dropout_key: jax.Array
) -> tuple[Outputs, Outputs | None, Any]:
    """Computes the student's outputs for one or both views, in training mode.

    Args:
      student: the network.
      variables: {"params": ..., "batch_stats": ...}.
      views: of the images.
      dropout_key: random key.

    Returns:
      The outputs for the mixed images, those for the second view or None, and the new running
      statistics, which both views update.
    """
    outputs, updates = student.apply(
        variables,
        views.mixed.images,
        train=True,
        feature_hook=views.mixed.feature_hook,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_key},
    )
    strong_outputs: Any = None
    if views.strong_images is not None:
        strong_outputs, updates = student.apply(
            {"params": variables["params"], **updates},
            views.strong_images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(dropout_key, 1)},
        )
    return outputs, strong_outputs, updates.get("batch_stats", {})


def _compute_losses(
    objective: Objective, variables: LossVariables, inputs: LossInputs, labels: jax.Array
) -> tuple[dict[str, jax.Array], Any]:
    """Computes the losses and the accuracy of some examples.

    Args:
      objective: what is minimised.
      variables: of the losses.
      inputs: of the losses.
      labels: int [b], before mixing.

    Returns:
      "loss", the total, one value for each loss by name and "accuracy"; and the new state of the
      losses.
    """
    loss, parts, new_state = objective.apply(variables, inputs)
    predicted = objective.predict(inputs.student, variables).logits
    correct = jnp.argmax(predicted, axis=-1) == labels
    return {"loss": loss, **parts, "accuracy": jnp.mean(correct)}, new_state


def _average(
    grads: Any,
    metrics: dict[str, jax.Array],
    batch_stats: Any,
    loss_state: dict[str, Any],
    whole_batch_losses: Collection[str],
) -> tuple[Any, dict[str, jax.Array], Any, dict[str, Any]]:
    """Averages what the shards have computed over all devices.

    Args:
      grads: gradient.
      metrics: name -> value.
      batch_stats: running statistics.
      loss_state: loss -> its state.
      whole_batch_losses: see `_average_state`.

    Returns:
      The first four, equal on all devices.
    """
    grads, metrics, batch_stats = jax.lax.pmean(
        (grads, metrics, batch_stats), distributed.BATCH_AXIS
    )
    return grads, metrics, batch_stats, _average_state(loss_state, whole_batch_losses)


def _average_state(
    loss_state: dict[str, Any], whole_batch_losses: Collection[str]
) -> dict[str, Any]:
    """Averages the state of losses over all devices.

    The state of a loss that sees the whole batch is equal on all devices, and can be large. Other
    statistics and centres of the shards are means over equal numbers of examples, and so is what
    the whole batch would give.

    Args:
      loss_state: loss -> its state.
      whole_batch_losses: names of the losses that see the whole batch.
    """
    equal = {k: v for k, v in loss_state.items() if k in whole_batch_losses}
    averaged = {k: v for k, v in loss_state.items() if k not in equal}
    return equal | jax.lax.pmean(averaged, distributed.BATCH_AXIS)


def _update(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    loss_state: dict[str, Any],
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes a step of the optimiser.

    Args:
      state: before the step.
      grads: gradient of `state.trainable`.
      batch_stats: the new running statistics.
      loss_state: the new state of the losses.
      optimizer: from `create_optimizer`.
      ema_decay: see `make_train_step`.

    Returns:
      The state after the step, and "grad_norm" and "param_norm".
    """
    updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
    trained = optax.apply_updates(state.trainable, updates)
    # The norm of the new parameters shows immediately that they are not finite, where the loss
    # would show it only in the next step, after a checkpoint.
    norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(trained)}
    ema = state.ema
    if ema:
        variables = {"params": trained["model"], "batch_stats": batch_stats}
        ema = optax.incremental_update(variables, ema, 1.0 - ema_decay)
    new_state = TrainState(
        step=state.step + 1,
        params=trained["model"],
        batch_stats=batch_stats,
        loss_variables={"params": trained["losses"], "state": loss_state},
        opt_state=opt_state,
        ema=ema,
    )
    return new_state, norms


def _accumulate(
    gradients: Callable[..., tuple[Any, tuple]],
    parts: int,
    examples: Any,
    statistics: tuple[Any, Any],
    keys: tuple[jax.Array, ...],
    whole_batch_losses: Collection[str],
) -> tuple[Any, tuple[dict[str, jax.Array], Any, Any]]:
    """Computes the gradient of a batch in parts, one after the other.

    Part j has the examples j, j + parts, j + 2 parts and so on of this shard, and so of the global
    batch: it does not depend on the number of devices.

    Args:
      gradients: (examples, keys, batch_stats, loss state, dropout key, loss key) -> (gradient,
        (metrics, batch_stats, loss state)).
      parts: by which the number of this shard's examples can be divided.
      examples: the batch and the examples' keys, arrays [b,...].
      statistics: batch_stats and loss state, which pass from part to part.
      keys: for dropout and for the losses; each part gets its keys.
      whole_batch_losses: see `_average_state`.

    Returns:
      As of `gradients`: means over the parts, and the statistics after the last one.
    """

    def of_part(index: jax.Array | int, examples: Any, statistics: Any) -> tuple[Any, tuple]:
        part_keys = (jax.random.fold_in(key, index) for key in keys)
        return gradients(*examples, *statistics, *part_keys)

    def add(carry: tuple, part: tuple) -> tuple[tuple, None]:
        total, statistics = carry
        grads, (metrics, batch_stats, loss_state) = of_part(*part, statistics)
        statistics = (batch_stats, _average_state(loss_state, whole_batch_losses))
        return (jax.tree.map(jnp.add, total, (grads, metrics)), statistics), None

    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), examples)
    first = jax.tree.map(lambda x: x[0], split)
    grads, (metrics, *_) = jax.eval_shape(lambda: of_part(0, first, statistics))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
    # XLA computes convolutions in a loop slowly on CPU.
    unroll = 1 if distributed.on_accelerator() else parts
    (total, statistics), _ = jax.lax.scan(
        add, (zeros, statistics), (jnp.arange(parts), split), unroll=unroll
    )
    grads, metrics = jax.tree.map(lambda x: x / parts, total)
    return grads, (metrics, *statistics)


def lookup_teacher_outputs(cached: Outputs, keys: jax.Array) -> Outputs:
    """Selects the cached teacher outputs of the augmented view: flipped or not.

    Args:
      cached: this shard's rows of the cache, arrays [b,views,...].
      keys: random keys [b] of the examples, as the augmentation takes them.

    Returns:
      The teacher's outputs [b,...]; its features have one channel.
    """
    views = jnp.zeros(len(keys), jnp.int32)
    if cached.logits.shape[1] > 1:
        views = draw_flips(keys).astype(jnp.int32)
    return jax.tree.map(lambda x: jax.vmap(lambda both, view: both[view])(x, views), cached)
