"""The losses: pure functions of arrays, and the objective that weighs them."""

from amdjax.losses.am import TERMS, AMTerms, am_global_local_loss, am_loss, am_terms
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.cc import cc_loss
from amdjax.losses.ce import cross_entropy
from amdjax.losses.dist import dist_loss
from amdjax.losses.dkd import dkd_loss
from amdjax.losses.fitnet import hint_loss
from amdjax.losses.ft import ft_loss
from amdjax.losses.kd import kd_loss
from amdjax.losses.margin_softmax import a_softmax_loss, arcface_loss, cosface_loss
from amdjax.losses.nst import nst_loss
from amdjax.losses.objective import Objective, build_objective, default_losses
from amdjax.losses.pkt import pkt_loss
from amdjax.losses.registry import LOSSES, LossInputs, LossSpec
from amdjax.losses.rkd import rkd_loss
from amdjax.losses.softmax_variants import spherical_softmax_loss, taylor_softmax_loss
from amdjax.losses.sp import sp_loss

__all__ = [
    "LOSSES",
    "TERMS",
    "AMTerms",
    "LossInputs",
    "LossSpec",
    "Objective",
    "a_softmax_loss",
    "am_global_local_loss",
    "am_loss",
    "am_terms",
    "amc_loss",
    "arcface_loss",
    "at_loss",
    "build_objective",
    "cc_loss",
    "contrastive_loss",
    "cosface_loss",
    "cross_entropy",
    "default_losses",
    "dist_loss",
    "dkd_loss",
    "ft_loss",
    "hint_loss",
    "kd_loss",
    "nst_loss",
    "pkt_loss",
    "rkd_loss",
    "sp_loss",
    "spherical_softmax_loss",
    "taylor_softmax_loss",
]
