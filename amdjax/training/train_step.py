"""One step of training and one of evaluation: pure functions of one device's shard."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from amdjax import distributed
from amdjax.data.mixing import Mix, MixedBatch
from amdjax.losses import LossInputs, Objective
from amdjax.metrics import EvalMetrics
from amdjax.models import Outputs
from amdjax.training.teacher_cache import lookup_teacher_outputs
from amdjax.training.train_state import TrainState

Batch = dict[str, Any]


def make_train_step(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    mix: Mix | None = None,
    teacher_sees_mixed: bool = True,
    ema_decay: float = 0.0,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the training step of a phase.

    Args:
      student: the network that is trained.
      teacher: the network that is asked, in evaluation mode; None where no loss needs it.
      objective: what is minimised.
      augment: (keys [b], uint8 images) -> float images.
      optimizer: from `create_optimizer`.
      mix: from `create_mix`; None: examples are not mixed.
      teacher_sees_mixed: whether the teacher is asked on the mixed image, or on the image alone.
      ema_decay: d of `ema = d * ema + (1 - d) * new`, where the state has means.

    Returns:
      `step(state, teacher_variables, batch, seed) -> (state, metrics)`, to be mapped with
      `distributed.shard_step`. `batch` has "image" uint8 [b,H,W,3], "label" int32 [b] and, if the
      teacher outputs are cached, these as "teacher", see `lookup_teacher_outputs`. All random
      numbers come from `fold_in(key(seed), state.step)`. The metrics are float32 scalars: "loss",
      one for each part by name and "accuracy" (of the images' own labels, mixed or not), means over
      the global batch, and "grad_norm" and "param_norm", L2 norms of the gradient and of the new
      parameters.
    """

    def step(
        state: TrainState, teacher_variables: Any, batch: Batch, seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        labels = batch["label"]
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = distributed.example_keys(key, labels.shape[0])
        images = augment(keys, batch["image"])
        mix_key, dropout_key = (jax.random.fold_in(key, 2**31 + use) for use in (0, 1))
        if student.axis_name is None:  # it cannot tell the shards apart itself
            dropout_key = distributed.shard_key(dropout_key)
        mixed = MixedBatch(images, labels, None)
        if mix is not None:
            mixed = mix(mix_key, images, labels, student.num_classes)
        taught = None
        if "teacher" in batch:
            taught = lookup_teacher_outputs(batch["teacher"], keys)
        elif teacher is not None:
            seen = mixed.images if teacher_sees_mixed else images
            taught = teacher.apply(teacher_variables, seen, train=False)

        def loss_of(trainable: dict[str, Any]) -> tuple[jax.Array, tuple]:
            outputs, updates = student.apply(
                {"params": trainable["model"], "batch_stats": state.batch_stats},
                mixed.images,
                train=True,
                feature_hook=mixed.feature_hook,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            own = {**state.loss_variables, "params": trainable["losses"]}
            inputs = LossInputs(outputs, taught, mixed.labels, state.step, distributed.gather)
            total, parts, moved = objective.apply(own, inputs)
            hits = jnp.argmax(objective.predict(outputs).logits, axis=-1) == labels
            metrics = {"loss": total, **parts, "accuracy": jnp.mean(hits)}
            return total, (metrics, updates["batch_stats"], moved)

        grads, moved = jax.grad(loss_of, has_aux=True)(state.trainable)
        # Statistics and centres of the shards are means over equal numbers of examples, and so is
        # what the whole batch would give.
        grads, (metrics, batch_stats, own_state) = jax.lax.pmean(
            (grads, moved), distributed.BATCH_AXIS
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trained = optax.apply_updates(state.trainable, updates)
        # The norm of the new parameters shows at once that they are not finite, where the loss
        # would show it only in the next step, behind a checkpoint.
        metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(trained)}
        own = {"params": trained["losses"], "state": own_state}
        ema = state.ema
        if ema:
            ema = optax.incremental_update(
                {"params": trained["model"], "batch_stats": batch_stats},
                ema,
                1.0 - ema_decay,
            )
        return (
            TrainState(state.step + 1, trained["model"], batch_stats, own, opt_state, ema),
            metrics,
        )

    return step


def scan_train_steps(step: Callable[..., Any]) -> Callable[..., Any]:
    """Makes many steps of one, for examples that lie on the device.

    Args:
      step: from `make_train_step`.

    Returns:
      `steps(state, teacher_variables, examples, indices, seed, count) -> (state, metrics)`, to be
      mapped with `distributed.shard_step` with the batch axis 1 of `indices`: int [n,b], of which
      row i says what of the examples [N,...] step i trains on. The first `count` steps are done; of
      the metrics, float32 [n], the rest are zero.
    """

    def steps(
        state: TrainState,
        teacher_variables: Any,
        examples: Batch,
        indices: jax.Array,
        seed: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def one(i: jax.Array | int, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = jax.tree.map(lambda x: x[indices[i]], examples)
            return step(state, teacher_variables, batch, seed)

        def body(i: jax.Array, carry: tuple) -> tuple:
            state, history = carry
            state, metrics = one(i, state)
            return state, jax.tree.map(lambda all_, x: all_.at[i].set(x), history, metrics)

        _, shapes = jax.eval_shape(lambda state: one(0, state), state)
        history = {name: jnp.zeros(len(indices), x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, history))

    return steps


def vmap_train_step(
    step: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Makes one step of several networks, as one program, of a step of one: `vmap` over the state.

    Args:
      step: `(state, *arguments) -> (state, metrics)`, from `make_train_step` or
        `scan_train_steps`.
      in_axes: for each argument, the axis of its arrays along which the networks' own lie behind
        one another; None: they share it.

    Returns:
      `joint(states, *arguments) -> (states, metrics)`, with a tuple of states and one of metrics.
    """

    def joint(states: tuple[TrainState, ...], *arguments: Any) -> tuple[tuple, tuple]:
        if len(states) == 1:
            own = (
                argument
                if axis is None
                else jax.tree.map(partial(jnp.squeeze, axis=axis), argument)
                for argument, axis in zip(arguments, in_axes, strict=True)
            )
            results = [step(states[0], *own)]
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            together = jax.vmap(step, (0, *in_axes))(stacked, *arguments)
            results = [jax.tree.map(operator.itemgetter(i), together) for i in range(len(states))]
        states, metrics = zip(*results, strict=True)
        return states, metrics

    return joint


def make_eval_step(
    model: nn.Module,
    normalize: Callable[[jax.Array], jax.Array],
    predict: Callable[[Outputs], Outputs] = lambda outputs: outputs,
) -> Callable[[dict, Batch], EvalMetrics]:
    """Makes the evaluation step of a network.

    Args:
      model: the network.
      normalize: uint8 images -> float images.
      predict: outputs -> outputs whose logits predict; see `Objective`.

    Returns:
      `step(variables, batch) -> EvalMetrics` over the global batch, to be mapped with
      `distributed.shard_step`. Examples whose "mask" is False do not count.
    """

    def step(variables: dict, batch: Batch) -> EvalMetrics:
        outputs = predict(model.apply(variables, normalize(batch["image"]), train=False))
        return EvalMetrics.gather_from_model_output(
            axis_name=distributed.BATCH_AXIS,
            logits=outputs.logits,
            labels=batch["label"],
            mask=batch["mask"],
        )

    return step
