"""CIFAR-10, which terms of the AM loss count: Figure 5 of the AMD paper.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=figure5.py:a
Published test accuracy (%), read off the figure, (a) / (b): KD 85.3 / 85.5, AT 85.8 / 85.8,
P 85.8 / 85.8, N 85.7 / 85.6, A 85.9 / 85.9, A+P 86.2 / 86.0, A+N 85.9 / 85.9,
A+P+N 86.3 / 86.0.
"""

import ml_collections

from amdjax.configs import cifar10, default

SETUPS = {name: name for name in ("a", "b")}


def get_config(setup: str = "a") -> ml_collections.ConfigDict:
    """Returns set-up (a) or (b) of CIFAR-10 with a sweep over the terms of AMD(g)."""
    config = cifar10.get_config(default.choose(SETUPS, setup, "figure5.py"))
    config.methods = ("kd", "at", "amd_g")
    config.sweep.key = "losses.am.terms"
    config.sweep.choices = (
        ("positive",),
        ("negative",),
        ("angular",),
        ("angular", "positive"),
        ("angular", "negative"),
        ("angular", "positive", "negative"),
    )
    return config
