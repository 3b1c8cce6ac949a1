"""One step of training and one of evaluation: pure functions of one device's shard."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from amdjax import distributed
from amdjax.data import Batch
from amdjax.data.augment import draw_flips
from amdjax.data.mixing import Mix, MixedBatch
from amdjax.losses import LossInputs, Objective
from amdjax.metrics import EvalMetrics
from amdjax.models import Model, Outputs
from amdjax.predictor import Predictor
from amdjax.training.train_state import TrainState


def make_train_step(
    *,
    student: Model,
    teacher: Model | None,
    objective: Objective,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    mix: Mix | None = None,
    teacher_sees_mixed: bool = True,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    strong_augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
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
        mix_key, dropout_key, loss_key = (jax.random.fold_in(key, 2**31 + use) for use in range(3))
        if student.axis_name is None:  # the network cannot tell the shards apart itself
            dropout_key = distributed.shard_key(dropout_key)

        def gradients(
            batch: Batch,
            example_keys: jax.Array,
            batch_stats: Any,
            loss_state: Any,
            dropout_key: jax.Array,
            loss_key: jax.Array,
        ) -> tuple[Any, tuple[dict[str, jax.Array], Any, Any]]:
            """Returns the gradient of some examples, and (metrics, batch_stats, loss state)."""
            labels = batch["label"]
            images = augment(example_keys, batch["image"])
            mixed = MixedBatch(images, labels, None)
            if mix is not None:
                mixed = mix(mix_key, images, labels, student.num_classes)
            teacher_outputs: Any = None
            if "teacher" in batch:
                teacher_outputs = lookup_teacher_outputs(batch["teacher"], example_keys)
            elif teacher is not None:
                teacher_images = mixed.images if teacher_sees_mixed else images
                teacher_outputs = teacher.apply(teacher_variables, teacher_images, train=False)
            strong_images: Any = None
            strong_teacher: Any = None
            if strong_augment is not None:
                strong_keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, 2**31)
                strong_images = strong_augment(strong_keys, batch["image"])
                if objective.needs_strong_teacher and teacher is not None:
                    strong_teacher = teacher.apply(teacher_variables, strong_images, train=False)

            def loss_fn(trainable: dict[str, Any]) -> tuple[jax.Array, tuple]:
                outputs, updates = student.apply(
                    {"params": trainable["model"], "batch_stats": batch_stats},
                    mixed.images,
                    train=True,
                    feature_hook=mixed.feature_hook,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
                strong_outputs: Any = None
                if strong_images is not None:
                    strong_outputs, updates = student.apply(
                        {"params": trainable["model"], **updates},
                        strong_images,
                        train=True,
                        mutable=["batch_stats"],
                        rngs={"dropout": jax.random.fold_in(dropout_key, 1)},
                    )
                loss_variables = {"params": trainable["losses"], "state": loss_state}
                inputs = LossInputs(
                    outputs,
                    teacher_outputs,
                    mixed.labels,
                    state.step,
                    distributed.gather,
                    example_index=batch.get("index"),
                    num_examples=num_examples,
                    key=loss_key,
                    strong_student=strong_outputs,
                    strong_teacher=strong_teacher,
                )
                loss, parts, new_loss_state = objective.apply(loss_variables, inputs)
                predicted = objective.predict(outputs, loss_variables).logits
                correct = jnp.argmax(predicted, axis=-1) == labels
                metrics = {"loss": loss, **parts, "accuracy": jnp.mean(correct)}
                return loss, (metrics, updates.get("batch_stats", {}), new_loss_state)

            return jax.grad(loss_fn, has_aux=True)(state.trainable)

        keys = (dropout_key, loss_key)
        examples = (batch, example_keys)
        statistics = (state.batch_stats, state.loss_variables["state"])
        if accumulate == 1:
            grads, aux = gradients(*examples, *statistics, *keys)
        else:
            grads, aux = _accumulate(gradients, accumulate, examples, statistics, keys)
        metrics, batch_stats, loss_state = aux
        # The state of a loss that sees the whole batch is equal on all devices, and can be large.
        # Other statistics and centres of the shards are means over equal numbers of examples, and
        # so is what the whole batch would give.
        equal = {k: v for k, v in loss_state.items() if k in objective.whole_batch_losses}
        averaged = {k: v for k, v in loss_state.items() if k not in equal}
        grads, metrics, batch_stats, averaged = jax.lax.pmean(
            (grads, metrics, batch_stats, averaged), distributed.BATCH_AXIS
        )
        loss_state = equal | averaged
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trained = optax.apply_updates(state.trainable, updates)
        # The norm of the new parameters shows immediately that they are not finite, where the loss
        # would show it only in the next step, after a checkpoint.
        metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(trained)}
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
        return new_state, metrics

    return step


def _accumulate(
    gradients: Callable[..., tuple[Any, tuple]],
    parts: int,
    examples: Any,
    statistics: tuple[Any, Any],
    keys: tuple[jax.Array, ...],
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

    Returns:
      As of `gradients`: means over the parts, and the statistics after the last one.
    """

    def of_part(index: jax.Array | int, examples: Any, statistics: Any) -> tuple[Any, tuple]:
        part_keys = (jax.random.fold_in(key, index) for key in keys)
        return gradients(*examples, *statistics, *part_keys)

    def add(carry: tuple, part: tuple) -> tuple[tuple, None]:
        total, statistics = carry
        grads, (metrics, *statistics) = of_part(*part, statistics)
        return (jax.tree.map(jnp.add, total, (grads, metrics)), tuple(statistics)), None

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


def scan_train_steps(
    step: Callable[..., Any], image_shape: tuple[int, int, int]
) -> Callable[..., Any]:
    """Makes many steps of one, for examples that lie on the device.

    Args:
      step: from `make_train_step`.
      image_shape: (H, W, 3) of every image.

    Returns:
      `steps(state, teacher_variables, examples, indices, seed, count) -> (state, metrics)`, to be
      mapped with `distributed.shard_step` with the batch axis 1 of `indices`: int [n,b], whose row
      i has the indices of step i into the examples [N,...], whose images are rows [N,H*W*3]: a TPU
      would lay out images [N,H,W,3] with N innermost, and reading some of them would touch all. The
      first `count` steps are done; the remaining entries of the metrics, float32 [n], are zero.
    """

    def steps(
        state: TrainState,
        teacher_variables: Any,
        examples: Batch,
        indices: jax.Array,
        seed: jax.Array,
        count: jax.Array,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        def step_i(
            i: jax.Array | int, state: TrainState
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = jax.tree.map(lambda x: x[indices[i]], examples)
            batch["image"] = batch["image"].reshape(-1, *image_shape)
            return step(state, teacher_variables, batch, seed)

        def body(i: jax.Array, carry: tuple) -> tuple:
            state, history = carry
            state, metrics = step_i(i, state)
            return state, jax.tree.map(lambda values, x: values.at[i].set(x), history, metrics)

        _, shapes = jax.eval_shape(lambda state: step_i(0, state), state)
        history = {name: jnp.zeros(len(indices), x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (state, history))

    return steps


def vmap_train_step(
    step: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """Vectorises a step over several networks with `jax.vmap`.

    Args:
      step: `(state, *arguments) -> (state, metrics)`, from `make_train_step` or
        `scan_train_steps`.
      in_axes: of the arguments, as in `jax.vmap`; None: the networks share the argument.

    Returns:
      `vmapped(states, *arguments) -> (states, metrics)`, with a tuple of states and one of metrics.
    """

    def vmapped(states: tuple[TrainState, ...], *arguments: Any) -> tuple[tuple, tuple]:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        together = jax.vmap(step, (0, *in_axes))(stacked, *arguments)
        results = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(states))]
        states, metrics = zip(*results, strict=True)
        return states, metrics

    return vmapped


def make_eval_step(predictor: Predictor) -> Callable[[dict, Batch], EvalMetrics]:
    """Creates the evaluation step of a network.

    Args:
      predictor: of the network.

    Returns:
      `step(variables, batch) -> EvalMetrics` over the global batch, to be mapped with
      `distributed.shard_step`. Examples whose "mask" is False do not count.
    """

    def step(variables: dict, batch: Batch) -> EvalMetrics:
        outputs = predictor(variables, batch["image"])
        return EvalMetrics.gather_from_model_output(
            axis_name=distributed.BATCH_AXIS,
            logits=outputs.logits,
            labels=batch["label"],
            mask=batch["mask"],
        )

    return step
