"""Data sets, and batches of them."""

from amdjax.data.dataset import DATASETS, Dataset, load_dataset
from amdjax.data.pipeline import Batch, Batches, EvalBatches, TrainBatches, prefetch
from amdjax.data.splits import MemorySplit, Split

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Dataset",
    "EvalBatches",
    "MemorySplit",
    "Split",
    "TrainBatches",
    "load_dataset",
    "prefetch",
]
