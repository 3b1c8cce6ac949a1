"""Peak rates of accelerators, and the least time of a step on them (the roofline)."""

from collections.abc import Mapping
from typing import NamedTuple


class Chip(NamedTuple):
    """Peak rates from a data sheet.

    Attributes:
      flops: dtype of the computation -> dense FLOP/s (for float32 the matrix unit's: TF32 on NVIDIA
        cards; on TPUs float32 products take 3 passes of bfloat16).
      bandwidth: of the memory, bytes/s.
      network: between chips of a pod, bytes/s per chip, in one direction.
    """

    flops: Mapping[str, float]
    bandwidth: float
    network: float


# By the beginning of JAX's `device_kind`. Cards of one name with other memory have other rates.
CHIPS = {
    "NVIDIA A100-SXM4-80GB": Chip({"bfloat16": 312e12, "float32": 156e12}, 2.0e12, 25e9),
    "NVIDIA H100 80GB HBM3": Chip({"bfloat16": 989e12, "float32": 495e12}, 3.35e12, 50e9),
    "NVIDIA H200": Chip({"bfloat16": 989e12, "float32": 495e12}, 4.8e12, 50e9),
    "TPU v4": Chip({"bfloat16": 275e12, "float32": 92e12}, 1.2e12, 150e9),
    "TPU v5 lite": Chip({"bfloat16": 197e12, "float32": 66e12}, 0.82e12, 100e9),
    "TPU v5p": Chip({"bfloat16": 459e12, "float32": 153e12}, 2.77e12, 300e9),
    "TPU v6 lite": Chip({"bfloat16": 918e12, "float32": 306e12}, 1.64e12, 224e9),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the rates of a device by JAX's name for it; None where they are not known."""
    return next((chip for name, chip in CHIPS.items() if device_kind.startswith(name)), None)


def floor_seconds(cost: Mapping[str, float], chip: Chip, dtype: str) -> float:
    """Returns the least seconds of a program: of its arithmetic or of its memory traffic.

    `max(FLOPs / rate, bytes / bandwidth)`.

    Args:
      cost: "flops" and "bytes accessed" of the program.
      chip: that it runs on.
      dtype: "float32" or "bfloat16".
    """
    return max(cost["flops"] / chip.flops[dtype], cost["bytes accessed"] / chip.bandwidth)
