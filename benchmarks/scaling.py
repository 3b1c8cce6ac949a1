"""Scaling model: the data that a step of AMD(g+l) sends between chips, and when it is hidden.

    python -m benchmarks.scaling [--chip="NVIDIA H100 80GB HBM3"] [--size=32]

WRN-16-3 teaches WRN-16-1, bfloat16. It counts the floating-point operations and the memory
traffic of one image (XLA's analysis of the step) and the bytes that a step reduces over
all chips: gradients and running statistics once, and with synchronised batch norm two sums for each
norm, forward and backward, one after the other. The time of an all-reduce of V bytes over n chips
is `2 (n - 1) / n V / bandwidth + 2 log2(n) latency`. The smallest batch of a chip whose arithmetic
hides the communication is the communication time over the floor of one image; the chip's real rate
is below its peak, so the real batch is smaller.
"""

import argparse
import math

import jax

from benchmarks import chips, jax_worker

_LATENCY = 5e-6  # seconds of one hop, an assumption: 2 within a node, 5 to 10 between nodes
_CHIPS = (8, 64, 1024)
_BATCH = 32  # that the step is compiled for


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", default="NVIDIA H100 80GB HBM3", choices=chips.CHIPS)
    parser.add_argument("--size", type=int, default=32, help="of the images, pixels")
    given = parser.parse_args()
    chip = chips.CHIPS[given.chip]
    state, cost = jax_worker.train_step_cost("amd_gl", given.size, _BATCH, "bfloat16")
    floor = chips.floor_seconds(cost, chip, "bfloat16") / _BATCH
    statistics = jax.tree.leaves(state.batch_stats)
    gradient = 4 * sum(x.size for x in [*jax.tree.leaves(state.params), *statistics])
    norms = len(statistics) // 2
    sums = 2 * 4 * sum(x.size for x in statistics)
    print(
        f"{given.chip}, {given.size}x{given.size}: {cost['flops'] / _BATCH / 1e6:,.0f} MFLOP and "
        f"{cost['bytes accessed'] / _BATCH / 1e6:,.1f} MB of memory traffic an image, at least "
        f"{1e6 * floor:.1f} us; {gradient / 1e3:,.0f} kB all-reduced a step, and "
        f"{sums / 1e3:,.0f} kB in {2 * norms} sums of batch norm\n"
    )
    print(
        "| chips | gradients, us | batch norm, us | batch of a chip | without synchronised norms |"
    )
    print("|---|---|---|---|---|")
    for count in _CHIPS:
        hops = 2 * math.ceil(math.log2(count)) * _LATENCY
        share = 2 * (count - 1) / count / chip.network
        once, many = share * gradient + hops, share * sums + 2 * norms * hops
        both, alone = (math.ceil(seconds / floor) for seconds in (once + many, once))
        print(f"| {count:,} | {1e6 * once:,.0f} | {1e6 * many:,.0f} | {both:,} | {alone:,} |")


if __name__ == "__main__":
    main()
