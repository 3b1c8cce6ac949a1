"""Capacity of the teacher, Table 8 of the AMD paper: CINIC-10, WRN-16-1 taught by WRN-40-1 or -2.

Paper: Jeon et al., Neurocomputing 518 (2023) 466-481.
Command: amdjax --config=table8.py:wrn_40_1-wrn_16_1
These two rows of the table are known, its accuracies are not: the small teacher, WRN-40-1 (0.6
million parameters), had the better student than WRN-40-2 (2.2 million). The methods are those of
cinic10.py.
"""

import ml_collections

from amdjax.configs import cinic10, default

SETUPS = {
    f"{teacher}-{student}": (teacher, student)
    for teacher, student in (("wrn_40_1", "wrn_16_1"), ("wrn_40_2", "wrn_16_1"))
}


def get_config(setup: str = "wrn_40_1-wrn_16_1") -> ml_collections.ConfigDict:
    """Returns the recipe of CINIC-10 with the pair."""
    config = cinic10.get_config()
    config.teacher.name, config.student.name = default.choose(SETUPS, setup, "table8.py")
    return config
