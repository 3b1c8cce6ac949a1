"""What the model families share: their outputs, convolution, batch norm and classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

Dtype = Any


@flax.struct.dataclass
class Outputs:
    """What every model returns, and all that a loss sees of it.

    Attributes:
      logits: float32 [B,C].
      features: place -> [B,h,w,c] in the compute dtype: "stem", "stage1", "stage2", ...
      embedding: float32 [B,D], the average-pooled input of the classifier.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    embedding: jax.Array


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    `y = (x - mean) / sqrt(var + eps) * scale + bias` with the batch's biased variance; the running
    variance averages the unbiased one (n / (n - 1)), as PyTorch's does and flax's own module does
    not, so that an imported or exported network keeps its statistics. Statistics are float32.

    Attributes:
      train: use the batch's statistics and move the running ones; else use the running ones.
      axis_name: mapped axis over which the batch's statistics are averaged; None: this shard's.
      dtype: of the result.
      momentum: weight of the old running value.
      eps: added to the variance.
    """

    train: bool
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., C] over all axes but the last."""
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        if self.train:
            mean, var, unbiased = self._batch_statistics(x.astype(jnp.float32))
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + self.eps)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        axes = tuple(range(x.ndim - 1))
        mean, mean_of_squares = jnp.mean(x, axes), jnp.mean(jnp.square(x), axes)
        count = x.size // x.shape[-1]
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), self.axis_name)
            count *= jax.lax.psum(1, self.axis_name)
        var = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
        return mean, var, var * (count / max(count - 1, 1))


def conv(
    features: int, kernel: int, stride: int = 1, *, dtype: Dtype, name: str
) -> Callable[[jax.Array], jax.Array]:
    """Returns a square convolution without bias, padded by kernel // 2 as in PyTorch.

    The weights are drawn from N(0, 2 / (kernel^2 * features)) (He et al. 2015, fan-out).
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )


def classifier(num_classes: int, *, name: str = "fc") -> Callable[[jax.Array], jax.Array]:
    """Returns the linear layer from the embedding to the logits, in float32, bias zero at first.

    The weights are drawn from U(-1/sqrt(D), 1/sqrt(D)), D the length of the embedding.
    """
    return nn.Dense(
        num_classes,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        name=name,
    )


def global_mean(x: jax.Array) -> jax.Array:
    """Averages a feature map [B,h,w,D], of any size, over its positions: float32 [B,D]."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
