"""Layers shared by the model families, and the models' common interface and outputs."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from amdjax import cpu

# The default of PyTorch's layers: U(±1/√fan-in).
PYTORCH_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

STAGES = ("stage1", "stage2", "stage3")  # layers that all families of networks record

Dtype = Any
FeatureHook = Callable[[str, jax.Array], jax.Array]


class Outputs(flax.struct.PyTreeNode):
    """The outputs of a model, which are all that a loss reads of it.

    Attributes:
      logits: float32 [B,C].
      features: layer -> [B,h,w,c] in the compute dtype: "stem", "stage1", "stage2", ..., and
        "final", the map whose mean over the positions is the embedding.
      embedding: float32 [B,D], the average-pooled input of the classifier.
      class_weights: float32 [D,C], the classifier's kernel, for losses of the angle between an
        embedding and its class; None, as the bias, where a network has no such classifier.
      class_bias: float32 [C], the classifier's bias.
    """

    logits: jax.Array
    features: dict[str, jax.Array]
    embedding: jax.Array
    class_weights: jax.Array | None = None
    class_bias: jax.Array | None = None


class Model(nn.Module, kw_only=True):
    """Interface of all models.

    Attributes:
      num_classes: C.
      dtype: of the computation; parameters, statistics, embedding and logits are float32.
      axis_name: mapped axis along which the batch is divided: batch norm averages its statistics
        over it in training, and dropout numbers the examples along it. None: not divided.
    """

    num_classes: int
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images.

        Args:
          x: float [B,H,W,3].
          train: normalise by the batch's statistics and update the running ones, and drop out.
          feature_hook: (layer, feature) -> the feature that the following layers receive; None:
            the feature itself. `Outputs.features` are those before the hook.
        """
        raise NotImplementedError


class FeatureRecorder:
    """Records the features of a forward pass, and applies the feature hook to them.

    Attributes:
      features: layer -> the feature as the model computed it.
    """

    def __init__(self, feature_hook: FeatureHook | None = None):
        """Takes the feature hook of `Model.__call__`."""
        self.features: dict[str, jax.Array] = {}
        self._feature_hook = feature_hook

    def __call__(self, layer: str, x: jax.Array) -> jax.Array:
        """Records the feature x of a layer, and returns the input of the following layers."""
        self.features[layer] = x
        return x if self._feature_hook is None else self._feature_hook(layer, x)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    `y = (x - mean) / sqrt(var + eps) * scale + bias` with the batch's biased variance; the running
    variance averages the unbiased one (n / (n - 1)), as PyTorch's does and flax's does not, so that
    imported and exported models keep their statistics. Statistics are float32.

    Attributes:
      train: normalise by the batch's statistics and update the running ones; otherwise normalise by
        the running ones.
      axis_name: mapped axis over which the batch's statistics are averaged; None: this shard's.
      dtype: of the result.
      momentum: weight of the previous running value.
      eps: added to the variance.
      use_scale: learn the scale; otherwise it is 1.
    """

    train: bool
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    momentum: float = 0.9
    eps: float = 1e-5
    use_scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises x [...,C] over all axes but the last."""
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
        y = cpu.ops.affine(x, factor, offset) if cpu.workarounds_enabled() else x * factor + offset
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        count = x.size // x.shape[-1]
        mean, mean_of_squares = (total / count for total in _moments(x))
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = jax.lax.pmean((mean, mean_of_squares), self.axis_name)
            count *= jax.lax.psum(1, self.axis_name)
        # One pass over x and one sum over the devices; in float32 the variance has an error of some
        # percent where the mean is 1,000 standard deviations.
        var = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
        return mean, var, var * (count / max(count - 1, 1))


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of x [...,C] and of its squares over all axes but the last."""
    if cpu.workarounds_enabled():
        return cpu.ops.moments(x)
    axes = tuple(range(x.ndim - 1))
    return jnp.sum(x, axes), jnp.sum(jnp.square(x), axes)


def convolution() -> Callable[..., jax.Array] | None:
    """Returns the `conv_general_dilated` of an `nn.Conv` without groups; None is flax's default."""
    return cpu.ops.convolve if cpu.workarounds_enabled() else None


def conv(
    features: int, kernel: int, stride: int = 1, *, groups: int = 1, dtype: Dtype, name: str
) -> Callable[[jax.Array], jax.Array]:
    """Returns a square convolution without bias, padded by kernel // 2 as in PyTorch.

    The weights are drawn from N(0, 2 / (kernel^2 * features)) (He et al. 2015, fan-out); PyTorch
    has the same fan-out for a grouped kernel.

    Args:
      features: number of output channels.
      kernel: side of the kernel in pixels.
      stride: in both directions.
      groups: number of groups of channels; a depthwise convolution has as many as input channels.
      dtype: of the computation.
      name: of the module.
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=kernel // 2,
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=convolution(),
        name=name,
    )


class Dropout(nn.Module):
    """Dropout whose masks do not depend on the number of devices.

    Each example has its own random numbers, from the "dropout" key and its index in the global
    batch. The entries that are kept are divided by `1 - rate`.

    Attributes:
      rate: fraction of the entries that become zero in training.
      train: drop entries; otherwise the layer is the identity.
      axis_name: mapped axis along which the batch is divided; None: not divided.
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


def classify(embedding: jax.Array, record: FeatureRecorder, num_classes: int) -> Outputs:
    """Applies the classifier, a float32 linear layer; called inside a model's compact method.

    The weights are drawn from U(-1/sqrt(D), 1/sqrt(D)), D the length of the embedding; the bias
    starts at zero.

    Args:
      embedding: float32 [B,D].
      record: with the features of this forward pass.
      num_classes: C.

    Returns:
      The model's outputs.
    """
    layer = nn.Dense(num_classes, kernel_init=PYTORCH_KERNEL_INIT, name="fc")
    logits = layer(embedding)
    classifier = layer.variables["params"]
    return Outputs(logits, record.features, embedding, classifier["kernel"], classifier["bias"])


def global_mean(x: jax.Array) -> jax.Array:
    """Averages a feature map [B,h,w,D], of any size, over its positions: float32 [B,D]."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
