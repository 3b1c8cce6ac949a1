"""One step of training and one of evaluation: pure functions of one device's shard."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from amdjax import parallel
from amdjax.losses import Inputs, Objective
from amdjax.metrics import EvalMetrics
from amdjax.state import TrainState

Batch = dict[str, jax.Array]


def make_train_step(
    student: nn.Module,
    teacher: nn.Module | None,
    objective: Objective,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the training step of a phase.

    Args:
      student: the network that is trained.
      teacher: the network that is asked, in evaluation mode; None where no loss needs it.
      objective: what is minimised.
      augment: (keys [b], uint8 images) -> float images.
      optimizer: from `create_optimizer`.

    Returns:
      `step(state, teacher_variables, batch, seed) -> (state, metrics)`, to be mapped with
      `parallel.map_step`. `batch` has "image" uint8 [b,H,W,3] and "label" int32 [b]. All random
      numbers come from `fold_in(key(seed), state.step)`. The metrics are float32 scalars:
      "loss", one for each part by name and "accuracy", means over the global batch, and
      "grad_norm" and "param_norm", L2 norms of the gradient and of the new parameters.
    """

    def step(
        state: TrainState, teacher_variables: Any, batch: Batch, seed: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        labels = batch["label"]
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = parallel.example_keys(key, labels.shape[0])
        images = augment(keys, batch["image"])
        taught = None if teacher is None else teacher.apply(teacher_variables, images, train=False)

        def loss_of(params: Any) -> tuple[jax.Array, tuple]:
            outputs, updates = student.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            inputs = Inputs(outputs, taught, labels, parallel.gather)
            total, parts = objective.apply(inputs, state.step)
            accuracy = jnp.mean(jnp.argmax(outputs.logits, axis=-1) == labels)
            metrics = {"loss": total, **parts, "accuracy": accuracy}
            return total, (metrics, updates["batch_stats"])

        grads, (metrics, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        grads, metrics, batch_stats = jax.lax.pmean(
            (grads, metrics, batch_stats), parallel.BATCH_AXIS
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The norm of the new parameters shows at once that they are not finite, where the loss
        # would show it only in the next step, behind a checkpoint.
        metrics |= {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return step


def make_eval_step(
    model: nn.Module, normalize: Callable[[jax.Array], jax.Array]
) -> Callable[[dict, Batch], EvalMetrics]:
    """Makes the evaluation step of a network.

    Args:
      model: the network.
      normalize: uint8 images -> float images.

    Returns:
      `step(variables, batch) -> EvalMetrics` over the global batch, to be mapped with
      `parallel.map_step`. Examples whose "mask" is False do not count.
    """

    def step(variables: dict, batch: Batch) -> EvalMetrics:
        outputs = model.apply(variables, normalize(batch["image"]), train=False)
        return EvalMetrics.gather_from_model_output(
            axis_name=parallel.BATCH_AXIS,
            logits=outputs.logits,
            labels=batch["label"],
            mask=batch["mask"],
        )

    return step
