"""Residual networks: He et al., Deep residual learning for image recognition, CVPR 2016.

`CifarResNet` is the three-stage network for small images (with projection shortcuts and batch norm
where the width changes), `ImageNetResNet` the four-stage one. Modules have the names of the common
PyTorch implementations, with `layer1.0.conv1` written as `layer1_0/conv1`; only the `shortcut` and
`linear` of RepDistiller's ResNet-50 for small images (Tian et al., Contrastive representation
distillation, ICLR 2020) are called `downsample` and `fc`.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from amdjax.models.layers import (
    BatchNorm,
    FeatureHook,
    FeatureRecorder,
    Model,
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


class CifarResNet(Model):
    """ResNet-d for small images: three stages of (d - 2) / 6 basic blocks.

    The features are the outputs of the stages, after the ReLU: 32, 16 and 8 pixels for a 32x32
    input.

    Attributes:
      depth: d = 6n + 2.
      widths: channels of the stem and of the three stages. The networks called "x4" have 32, 64,
        128 and 256: the stem is twice as wide, the stages four times.
    """

    depth: int
    widths: tuple[int, int, int, int] = (16, 16, 32, 64)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        stem, *widths = self.widths
        x = nn.relu(norm(name="bn1")(conv(stem, 3, dtype=self.dtype, name="conv1")(x)))
        blocks = ((self.depth - 2) // 6,) * 3
        return _stages(
            x, FeatureRecorder(feature_hook), _BasicBlock, blocks, widths, self.num_classes, norm
        )


class ImageNetResNet(Model):
    """ResNet-18, 34 or 50: a 7x7 stem with pooling and four stages of 64 to 512 (times 4) channels.

    The features are the outputs of the stages, after the ReLU: 56, 28, 14 and 7 pixels for a
    224x224 input, and with a small stem 32, 16, 8 and 4 pixels for a 32x32 input.

    Attributes:
      blocks: number of blocks of each stage.
      bottleneck: bottleneck blocks (ResNet-50) instead of basic ones.
      small_stem: a 3x3 stem of stride 1 without pooling, for small images.
    """

    blocks: Sequence[int]
    bottleneck: bool
    small_stem: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        kernel, stride = (3, 1) if self.small_stem else (7, 2)
        x = conv(64, kernel, stride, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        if not self.small_stem:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block, widths = _Bottleneck if self.bottleneck else _BasicBlock, (64, 128, 256, 512)
        return _stages(
            x, FeatureRecorder(feature_hook), block, self.blocks, widths, self.num_classes, norm
        )


def _stages(
    x: jax.Array,
    record: FeatureRecorder,
    block: type[nn.Module],
    blocks: Sequence[int],
    widths: Sequence[int],
    num_classes: int,
    norm: partial,
) -> Outputs:
    x = record("stem", x)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
        for i in range(count):
            stride = 2 if stage > 1 and i == 0 else 1
            x = block(width, stride, norm, name=f"layer{stage}_{i}")(x)
        x = record(f"stage{stage}", x)
    return classify(global_mean(record("final", x)), record, num_classes)
