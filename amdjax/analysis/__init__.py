"""Analysis of trained models: pure functions of arrays, without files and figures."""

from amdjax.analysis.angles import geodesic_distances, map_angles, map_cosine
from amdjax.analysis.calibration import Reliability, fit_temperature, reliability, split_half
from amdjax.analysis.embedding import Components, pca, tsne
from amdjax.analysis.gradcam import grad_cam, to_unit, upsample
from amdjax.analysis.open_set import (
    auroc,
    fpr_at_tpr,
    max_log_probability,
    nearest_mean_cosine,
    negative_energy,
)

__all__ = [
    "Components",
    "Reliability",
    "auroc",
    "fit_temperature",
    "fpr_at_tpr",
    "geodesic_distances",
    "grad_cam",
    "map_angles",
    "map_cosine",
    "max_log_probability",
    "nearest_mean_cosine",
    "negative_energy",
    "pca",
    "reliability",
    "split_half",
    "to_unit",
    "tsne",
    "upsample",
]
