"""The outputs of networks for the test split."""

import numpy as np

from amdjax.analysis.angles import map_cosine
from amdjax.report.outputs import compare_maps


def test_compare_maps_leaves_out_incompatible_sizes():
    rng = np.random.default_rng(0)
    large, small, odd = (rng.normal(size=[2, side, side, 3]) for side in (8, 4, 6))
    comparison = compare_maps({"a": large, "b": large}, {"a": small, "b": odd}, 1.35, 64.0)
    assert comparison["similarity"].keys() == comparison["am"].keys() == {"a"}
    np.testing.assert_allclose(comparison["similarity"]["a"], map_cosine(large, small), rtol=1e-5)
    assert compare_maps({"a": large}, {}, 1.35, 64.0) == {"similarity": {}, "am": {}}
