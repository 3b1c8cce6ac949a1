"""Data sets, and batches of them."""

from amdjax.data.pipeline import Batch, Batches, EvalBatches, TrainBatches, prefetch
from amdjax.data.registry import DATASETS, Dataset, load_dataset
from amdjax.data.sources import InMemorySource, Split

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Dataset",
    "EvalBatches",
    "InMemorySource",
    "Split",
    "TrainBatches",
    "load_dataset",
    "prefetch",
]
