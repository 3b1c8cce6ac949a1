"""Losses: pure functions of arrays, their registry, and the objective that adds them up."""

from amdjax.losses.ab import ab_loss
from amdjax.losses.am import AM_TERMS, AMTerms, am_global_local_loss, am_loss, am_terms
from amdjax.losses.amc import amc_loss, contrastive_loss
from amdjax.losses.at import at_loss
from amdjax.losses.cc import cc_loss
from amdjax.losses.ce import cross_entropy
from amdjax.losses.crd import crd_loss
from amdjax.losses.ctkd import ctkd_loss
from amdjax.losses.dist import dist_loss
from amdjax.losses.dkd import dkd_loss
from amdjax.losses.fitnet import hint_loss
from amdjax.losses.fsp import flow_matrix, fsp_loss
from amdjax.losses.ft import ft_loss
from amdjax.losses.kd import kd_loss
from amdjax.losses.margin_softmax import a_softmax_loss, arcface_loss, cosface_loss
from amdjax.losses.mlkd import mlkd_loss
from amdjax.losses.nkd import nkd_loss
from amdjax.losses.nst import nst_loss
from amdjax.losses.objective import LossVariables, Objective, build_objective, default_losses
from amdjax.losses.pkt import pkt_loss
from amdjax.losses.registry import LOSSES, register_loss
from amdjax.losses.reviewkd import hcl_loss
from amdjax.losses.rkd import rkd_loss
from amdjax.losses.rld import rld_loss
from amdjax.losses.softmax_variants import spherical_softmax_loss, taylor_softmax_loss
from amdjax.losses.sp import sp_loss
from amdjax.losses.spec import LossInputs, LossSpec
from amdjax.losses.ttm import ttm_loss, wttm_loss
from amdjax.losses.wkd import class_cost, wkd_feature_loss, wkd_logit_loss

__all__ = [
    "AM_TERMS",
    "LOSSES",
    "AMTerms",
    "LossInputs",
    "LossSpec",
    "LossVariables",
    "Objective",
    "a_softmax_loss",
    "ab_loss",
    "am_global_local_loss",
    "am_loss",
    "am_terms",
    "amc_loss",
    "arcface_loss",
    "at_loss",
    "build_objective",
    "cc_loss",
    "class_cost",
    "contrastive_loss",
    "cosface_loss",
    "crd_loss",
    "cross_entropy",
    "ctkd_loss",
    "default_losses",
    "dist_loss",
    "dkd_loss",
    "flow_matrix",
    "fsp_loss",
    "ft_loss",
    "hcl_loss",
    "hint_loss",
    "kd_loss",
    "mlkd_loss",
    "nkd_loss",
    "nst_loss",
    "pkt_loss",
    "register_loss",
    "rkd_loss",
    "rld_loss",
    "sp_loss",
    "spherical_softmax_loss",
    "taylor_softmax_loss",
    "ttm_loss",
    "wkd_feature_loss",
    "wkd_logit_loss",
    "wttm_loss",
]
