"""The losses: pure functions of arrays, and the objective that weighs them."""

from amdjax.losses.am import TERMS, AMTerms, am_global_local_loss, am_loss, am_terms
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.ce import cross_entropy
from amdjax.losses.kd import kd_loss
from amdjax.losses.objective import LOSSES, Inputs, Objective, default_losses, objective
from amdjax.losses.sp import sp_loss

__all__ = [
    "LOSSES",
    "TERMS",
    "AMTerms",
    "Inputs",
    "Objective",
    "am_global_local_loss",
    "am_loss",
    "am_terms",
    "amc_loss",
    "at_loss",
    "contrastive_loss",
    "cross_entropy",
    "default_losses",
    "kd_loss",
    "objective",
    "sp_loss",
]
