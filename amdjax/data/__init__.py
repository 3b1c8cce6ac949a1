"""Data sets, and batches of them."""

from amdjax.data.pipeline import Batch, Batches, EvalBatches, TrainBatches, prefetch
from amdjax.data.registry import DATASETS, Dataset, load_dataset
from amdjax.data.sources import ImageSource, InMemorySource

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Dataset",
    "EvalBatches",
    "ImageSource",
    "InMemorySource",
    "TrainBatches",
    "load_dataset",
    "prefetch",
]
