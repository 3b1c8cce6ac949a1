"""Analysis of trained models: pure functions of arrays, without files and figures."""

from amdjax.analysis.angles import geodesic_distances, map_angles, map_cosine
from amdjax.analysis.calibration import Reliability, fit_temperature, reliability, split_half
from amdjax.analysis.embedding import Components, pca, tsne
from amdjax.analysis.gradcam import grad_cam, to_unit, upsample

__all__ = [
    "Components",
    "Reliability",
    "fit_temperature",
    "geodesic_distances",
    "grad_cam",
    "map_angles",
    "map_cosine",
    "pca",
    "reliability",
    "split_half",
    "to_unit",
    "tsne",
    "upsample",
]
