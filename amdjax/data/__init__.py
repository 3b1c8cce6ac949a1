"""Data sets and their batches."""

from amdjax.data.fingerprint import Fingerprint
from amdjax.data.load import describe_dataset, load_dataset
from amdjax.data.pipeline import (
    Batch,
    Batches,
    EvalBatches,
    JoinedBatches,
    TrainBatches,
    prefetch,
)
from amdjax.data.registry import DATASETS, Dataset, register_dataset
from amdjax.data.sources import ImageSource, InMemorySource

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Dataset",
    "EvalBatches",
    "Fingerprint",
    "ImageSource",
    "InMemorySource",
    "JoinedBatches",
    "TrainBatches",
    "describe_dataset",
    "load_dataset",
    "prefetch",
    "register_dataset",
]
