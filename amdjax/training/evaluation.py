"""Evaluation of a network on a whole split, on all devices."""

import functools
from collections.abc import Callable

from jax.sharding import Mesh

from amdjax import distributed
from amdjax.data import Batch, EvalBatches, ImageSource
from amdjax.metrics import EvalMetrics
from amdjax.predictor import Predictor


def evaluate(
    predictor: Predictor, variables: dict, source: ImageSource, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """Evaluates a network on a whole split, every example once.

    Args:
      predictor: of the network.
      variables: its variables, replicated over the mesh.
      source: the images of the split.
      batch_size: global.
      mesh: of all devices.

    Returns:
      name -> value, see `EvalMetrics`.
    """
    batches = EvalBatches(
        source, batch_size, distributed.process_index(), distributed.process_count()
    )
    eval_step = compiled_eval_step(predictor, mesh)
    total = EvalMetrics.empty()
    for batch in batches:
        metrics = eval_step(variables, distributed.shard(batch, mesh))
        distributed.block_on_cpu(metrics)
        total = _merge(total, metrics)
    if total.accuracy.count != len(source):
        raise AssertionError(f"evaluated {total.accuracy.count} of {len(source)} examples")
    return {name: float(value) for name, value in total.compute().items()}


@distributed.jit  # one program in place of an addition for each of the counts
def _merge(total: EvalMetrics, metrics: EvalMetrics) -> EvalMetrics:
    return total.merge(metrics)


@functools.cache  # one program for all networks of a definition
def compiled_eval_step(predictor: Predictor, mesh: Mesh) -> Callable[..., EvalMetrics]:
    """Returns the compiled evaluation step of a network over all devices, see `make_eval_step`."""
    return distributed.shard_step(make_eval_step(predictor), mesh, batch_argument=1)


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
