"""CIFAR-10 with and without mixup, calibration: Table 10 and Figure 14 of the AMD paper.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=table10.py:a_mixup
Mixup (alpha 0.2) is in the students' training only; the teacher is trained without it, and its
input is the mixed image. AFDS needs equal widths and is in set-up (b) only.
Published accuracy (%) without, gain with mixup: (a) student 84.1 +0.4, KD 85.3 -0.0, AT 85.8 +0.2,
AFD 86.2 +0.1, AMD(g) 86.3 +0.2, AMD(g+l) 86.4 +0.3; docs/recipes.md has (b), ECE and NLL. The
printed ECE (about 2 %) is 3 to 4 times smaller than the standard definition gives for such
networks: compare the order, not the values.
"""

import ml_collections

from amdjax.configs import cifar10, default

SETUPS = {
    "a": ("a", "none"),
    "a_mixup": ("a", "mixup"),
    "b": ("b", "none"),
    "b_mixup": ("b", "mixup"),
}


def get_config(setup: str = "a") -> ml_collections.ConfigDict:
    """Returns set-up (a) or (b) of CIFAR-10, with mixup or without."""
    of_cifar10, mix = default.choose(SETUPS, setup, "table10.py")
    config = cifar10.get_config(of_cifar10)
    config.mix.name = mix
    afds = ("afds",) if of_cifar10 == "b" else ()
    config.methods = ("scratch", "kd", "at", *afds, "afd", "amd_g", "amd_gl")
    return config
