"""Trained layers that bring the student's features to the shape of the teacher's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.models.layers import PYTORCH_KERNEL_INIT

_MOMENTUM = 0.9  # weight of the previous running statistics
# The kernels of the published losses start as PyTorch's; Flax's default has three times the
# variance. Biases start at zero.
conv = functools.partial(nn.Conv, kernel_init=PYTORCH_KERNEL_INIT)
dense = functools.partial(nn.Dense, kernel_init=PYTORCH_KERNEL_INIT)
# PyTorch takes the outputs of a transposed convolution for its inputs.
_transposed_conv = functools.partial(
    nn.ConvTranspose, kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
)


class BatchStatisticsNorm(nn.Module):
    """Batch norm over the channels with the statistics of the batch.

    It has no running statistics: the layers of a loss are used in training only. Under data
    parallelism it needs the whole batch (`LossSpec.whole_batch`).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes a float array [...,C] over all axes but the last."""
        axes = tuple(range(x.ndim - 1))
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return functional.batch_norm(x, x.mean(axes), x.var(axes), scale, bias)


class RunningBatchNorm(nn.Module):
    """Batch norm over the channels with the statistics of the batch, and running ones to evaluate.

    Unlike those of `models.layers.BatchNorm` the running statistics are in the state of a loss, and
    those of the batch are of all its shards, which a loss that is `whole_batch` has.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalizes a float array [...,C] over all axes but the last."""
        axes, channels = tuple(range(x.ndim - 1)), x.shape[-1:]
        running_mean = self.variable("state", "mean", jnp.zeros, channels)
        running_var = self.variable("state", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = x.mean(axes), x.var(axes)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                unbiased = var * (count / max(count - 1, 1))
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    new = jax.lax.stop_gradient(new)
                    running.value = _MOMENTUM * running.value + (1.0 - _MOMENTUM) * new
        return functional.batch_norm(x, mean, var, scale, bias)


class Regressor(nn.Module):
    """A convolution from the student's to the teacher's shape, and batch norm.

    The convolution is 3x3 with stride 2 to half the size, a transposed 4x4 with stride 2 to twice
    the size, and otherwise (1 + H - H') x (1 + W - W') without padding: 1x1 for
    equal sizes.

    Attributes:
      shape: (H', W', C') of the teacher's feature.
    """

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a feature [B,H,W,C] to [B,H',W',C'].

        Raises:
          UserError: if the teacher's map is larger, but not twice as large.
        """
        (height, width), (to_height, to_width, channels) = x.shape[1:3], self.shape
        if (height, width) == (2 * to_height, 2 * to_width):
            x = conv(channels, (3, 3), strides=2, padding=1, name="conv")(x)
        elif (2 * height, 2 * width) == (to_height, to_width):
            x = _transposed_conv(channels, (4, 4), strides=(2, 2), padding="SAME", name="conv")(x)
        elif height >= to_height and width >= to_width:
            kernel = (1 + height - to_height, 1 + width - to_width)
            x = conv(channels, kernel, padding="VALID", name="conv")(x)
        else:
            raise UserError(
                f"a feature map of {height}x{width} of the student has no regressor to the "
                f"teacher's {to_height}x{to_width}: choose other `features` for this loss"
            )
        return BatchStatisticsNorm(name="bn")(x)
