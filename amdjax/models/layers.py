"""What the model families share: their outputs, convolution, batch norm and classifier."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from amdjax.cpu.ops import affine, convolve, moments

Dtype = Any


@flax.struct.dataclass
class Outputs:
    """What every model returns, and all that a loss sees of it.

    Attributes:
      logits: float32 [B,C].
      features: layer -> [B,h,w,c] in the compute dtype: "stem", "stage1", "stage2", ...
      embedding: float32 [B,D], the average-pooled input of the classifier.
      class_weights: float32 [D,C], the classifier's kernel, for losses of the angle between an
        embedding and its class.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    embedding: jax.Array
    class_weights: jax.Array


FeatureHook = Callable[[str, jax.Array], jax.Array]


class FeatureRecorder:
    """Collects the features of a forward pass, and lets them be changed on their way.

    Attributes:
      features: layer -> the feature as the network computed it.
    """

    def __init__(self, feature_hook: FeatureHook | None = None):
        """Takes the change: (layer, feature) -> what the network goes on with; None: nothing."""
        self.features: dict[str, jax.Array] = {}
        self._feature_hook = feature_hook

    def __call__(self, layer: str, x: jax.Array) -> jax.Array:
        """Notes the feature x of a layer, and returns what the network goes on with."""
        self.features[layer] = x
        return x if self._feature_hook is None else self._feature_hook(layer, x)


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
      use_scale: learn the scale; else it is 1.
    """

    train: bool
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    momentum: float = 0.9
    eps: float = 1e-5
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [..., C] over all axes but the last."""
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels) if self.use_scale else 1.0
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
        offset = bias - mean * factor
        return affine(x, factor, offset).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        count = x.size // x.shape[-1]
        mean, mean_of_squares = (total / count for total in moments(x))
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
        conv_general_dilated=convolve,
        name=name,
    )


class Dropout(nn.Module):
    """Dropout whose masks do not depend on how many devices share the batch.

    Each example has its own random numbers, from the "dropout" key and its place in the global
    batch. What is kept is divided by `1 - rate`.

    Attributes:
      rate: share of the entries that become zero in training.
      train: whether to drop anything.
      axis_name: mapped axis along which the batch is divided; None: this shard is the batch.
    """

    rate: float
    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B,...] to the same shape and dtype."""
        if not self.train or self.rate == 0 or self.is_initializing():
            return x
        first = 0 if self.axis_name is None else jax.lax.axis_index(self.axis_name) * x.shape[0]
        rows = first + jnp.arange(x.shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), rows)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def classify(
    embedding: jax.Array, record: FeatureRecorder, num_classes: int, *, name: str = "fc"
) -> Outputs:
    """Ends a network, inside its compact method, with a float32 linear layer of zero bias.

    The weights are drawn from U(-1/sqrt(D), 1/sqrt(D)), D the length of the embedding.

    Args:
      embedding: float32 [B,D].
      record: with the features of this forward pass.
      num_classes: C.
      name: of the layer.

    Returns:
      The network's outputs.
    """
    layer = nn.Dense(
        num_classes,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        name=name,
    )
    logits = layer(embedding)
    return Outputs(logits, record.features, embedding, layer.variables["params"]["kernel"])


def global_mean(x: jax.Array) -> jax.Array:
    """Averages a feature map [B,h,w,D], of any size, over its positions: float32 [B,D]."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
