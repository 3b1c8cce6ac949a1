"""Residual networks: He et al., Deep residual learning for image recognition, CVPR 2016.

`CifarResNet` is the three-stage network for small images (with projection shortcuts and batch norm
where the width changes), `ImageNetResNet` the four-stage one. Modules carry the names of the common
PyTorch implementations, `layer1.0.conv1` written as `layer1_0/conv1`.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.models.layers import (
    BatchNorm,
    Dtype,
    FeatureHook,
    FeatureRecorder,
    Outputs,
    classify,
    conv,
    global_mean,
)


class _BasicBlock(nn.Module):
    width: int
    stride: int
    norm: partial
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.norm.keywords["dtype"]
        y = conv(self.width, 3, self.stride, dtype=dtype, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.norm(name="bn2")(conv(self.width, 3, dtype=dtype, name="conv2")(y))
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.norm))


class _Bottleneck(nn.Module):
    width: int
    stride: int
    norm: partial
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.norm.keywords["dtype"]
        y = nn.relu(self.norm(name="bn1")(conv(self.width, 1, dtype=dtype, name="conv1")(x)))
        y = conv(self.width, 3, self.stride, dtype=dtype, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = conv(self.expansion * self.width, 1, dtype=dtype, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride, self.norm))


def _shortcut(x: jax.Array, channels: int, stride: int, norm: partial) -> jax.Array:
    if stride == 1 and x.shape[-1] == channels:
        return x
    dtype = norm.keywords["dtype"]
    return norm(name="downsample_1")(conv(channels, 1, stride, dtype=dtype, name="downsample_0")(x))


class CifarResNet(nn.Module):
    """ResNet-d for small images: three stages of (d - 2) / 6 basic blocks of 16, 32, 64 channels.

    The features are the stages' outputs behind the ReLU: 32, 16 and 8 pixels for a 32x32 input.

    Attributes:
      depth: d = 6n + 2.
      num_classes: C.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch norm averages in training; None: none.
    """

    depth: int
    num_classes: int
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Maps images float [B,H,W,3] to `Outputs`; `feature_hook` may replace features."""
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = nn.relu(norm(name="bn1")(conv(16, 3, dtype=self.dtype, name="conv1")(x)))
        blocks = ((self.depth - 2) // 6,) * 3
        return _stages(
            x, FeatureRecorder(feature_hook), _BasicBlock, blocks, 16, self.num_classes, norm
        )


class ImageNetResNet(nn.Module):
    """ResNet-18, 34 or 50: a 7x7 stem with pooling and four stages of 64 to 512 (times 4) channels.

    The features are the stages' outputs behind the ReLU: 56, 28, 14, 7 pixels for a 224x224 input.

    Attributes:
      blocks: number of blocks of each stage.
      bottleneck: bottleneck blocks (ResNet-50) instead of basic ones.
      num_classes: C.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch norm averages in training; None: none.
    """

    blocks: Sequence[int]
    bottleneck: bool
    num_classes: int
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Maps images float [B,H,W,3] to `Outputs`; `feature_hook` may replace features."""
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = nn.relu(norm(name="bn1")(conv(64, 7, 2, dtype=self.dtype, name="conv1")(x)))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block = _Bottleneck if self.bottleneck else _BasicBlock
        return _stages(
            x, FeatureRecorder(feature_hook), block, self.blocks, 64, self.num_classes, norm
        )


def _stages(
    x: jax.Array,
    record: FeatureRecorder,
    block: type[nn.Module],
    blocks: Sequence[int],
    width: int,
    num_classes: int,
    norm: partial,
) -> Outputs:
    x = record("stem", x)
    for stage, count in enumerate(blocks, start=1):
        for i in range(count):
            stride = 2 if stage > 1 and i == 0 else 1
            x = block(width * 2 ** (stage - 1), stride, norm, name=f"layer{stage}_{i}")(x)
        x = record(f"stage{stage}", x)
    return classify(global_mean(x), record, num_classes)
