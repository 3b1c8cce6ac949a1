"""What the phases of a run share: data, devices, and how networks are made and evaluated."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import ml_collections
from jax.sharding import Mesh

from amdjax import distributed
from amdjax.config import compute_dtype
from amdjax.data import Dataset, EvalBatches, TrainBatches, prefetch
from amdjax.data.augment import create_augment
from amdjax.metrics import EvalMetrics
from amdjax.models import Outputs, create_model
from amdjax.training.train_step import make_eval_step


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What all phases of a run share."""

    config: ml_collections.ConfigDict
    workdir: Path
    dataset: Dataset
    mesh: Mesh

    def model(self, name: str) -> nn.Module:
        """Makes a network for this run's data, type and devices."""
        axis = distributed.BATCH_AXIS if self.config.sync_batch_norm else None
        return create_model(name, self.dataset.num_classes, compute_dtype(self.config), axis)

    def train_batches(self, seed: int) -> TrainBatches:
        """Returns this process's rows of the training batches, in the order of a seed."""
        return TrainBatches(
            self.dataset.train,
            self.config.batch_size,
            seed,
            distributed.process_index(),
            distributed.process_count(),
        )

    def evaluator(
        self, model: nn.Module, predict: Callable[[Outputs], Outputs]
    ) -> Callable[[dict], dict[str, float]]:
        """Makes a function from a network's variables to its values on the whole test split."""
        split = self.dataset.test
        batches = EvalBatches(
            split, self.config.batch_size, distributed.process_index(), distributed.process_count()
        )
        normalize = create_augment(self.config.augment)[1]
        eval_step = distributed.shard_step(
            make_eval_step(model, normalize, predict), self.mesh, batch_argument=1
        )

        def evaluate(variables: dict) -> dict[str, float]:
            total = EvalMetrics.empty()
            for batch in prefetch(batches, 0, len(batches)):
                metrics = eval_step(variables, distributed.shard(batch, self.mesh))
                distributed.block_on_cpu(metrics)
                total = total.merge(metrics)
            if total.accuracy.count != len(split):
                raise AssertionError(f"evaluated {total.accuracy.count} of {len(split)} examples")
            return {name: float(value) for name, value in total.compute().items()}

        return evaluate
