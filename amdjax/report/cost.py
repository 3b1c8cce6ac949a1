"""The cost of a network's forward pass: its operations, and its speed on this device."""

import time
from typing import NamedTuple

import jax
import numpy as np

from amdjax.predictor import forward
from amdjax.trained import TrainedModel

_TIMED_BATCHES = 5


class Cost(NamedTuple):
    """The cost of a forward pass.

    Attributes:
      flops: floating-point operations of one image; 0 if no CPU backend can count them.
      images_per_s: median speed of whole batches, after one warm-up batch.
    """

    flops: float
    images_per_s: float


def measure_cost(network: TrainedModel, images: np.ndarray) -> Cost:
    """Measures the cost of a network's forward pass on a batch of images uint8 [B,H,W,3]."""
    return Cost(_count_flops(network, images.shape[1:]), _measure_speed(network, images))


def _count_flops(network: TrainedModel, image_shape: tuple[int, ...]) -> float:
    """Counts operations before any optimisation, and always in the program for the CPU.

    The counts of compiled programs differ between platforms, and on GPUs leave out the operations
    of libraries.
    """
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may leave it out
        return 0.0
    variables = jax.eval_shape(lambda: network.variables)
    image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
    with jax.default_device(cpu):
        lowered = jax.jit(lambda *x: network.predictor(*x).logits).lower(variables, image)
        analysis = lowered.cost_analysis()
    return max(0.0, (analysis or {}).get("flops", 0.0))


def _measure_speed(network: TrainedModel, images: np.ndarray) -> float:
    variables, images = jax.device_put((network.variables, images))
    seconds = []
    for _ in range(1 + _TIMED_BATCHES):
        start = time.perf_counter()
        jax.block_until_ready(forward(network.predictor, variables, images))
        seconds.append(time.perf_counter() - start)
    return len(images) / float(np.median(seconds[1:]))
