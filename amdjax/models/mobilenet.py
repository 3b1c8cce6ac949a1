"""MobileNetV2: Sandler et al., Inverted residuals and linear bottlenecks, CVPR 2018.

Two half-wide variants for small images. `MobileNetV2` is that of the repository jeunsom/TGD, which
has the 0.6 million parameters printed in its first author's paper on angular distributions (Jeon et
al., Neurocomputing 2023). `MobileNetV2Half` is that of RepDistiller (Tian et al., Contrastive
representation distillation, ICLR 2020), after Jin et al., Knowledge distillation via route
constrained optimization, ICCV 2019. Modules have the published names, with `features1.1.conv.0.0`
written as `features1_1/conv_0/0` and `blocks.1.0.conv.3` as `blocks_1_0/conv_3`; only
`classifier.1` and `classifier.0` are called `fc`, as in every family here.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from amdjax.models.layers import (
    BatchNorm,
    Dropout,
    FeatureHook,
    FeatureRecorder,
    Model,
    Outputs,
    classify,
    conv,
    global_mean,
)

_STEM, _LAST = 8, 640
# TGD's definition has 12 channels in the second group and rounds them to a multiple of 8.
_STAGES = (
    ((1, 8, 1, 1), (6, 16, 2, 1)),
    ((6, 16, 3, 2), (6, 32, 4, 1), (6, 48, 3, 1)),
    ((6, 80, 3, 2), (6, 160, 1, 1)),
)
_HALF_STEM, _HALF_LAST = 16, 1280  # RepDistiller halves the stem, but not the last layer
_HALF_STAGES = (
    ((1, 8, 1, 1), (6, 12, 2, 1)),
    ((6, 16, 3, 2),),
    ((6, 32, 4, 2), (6, 48, 3, 1)),
    ((6, 80, 3, 2), (6, 160, 1, 1)),
)


class MobileNetV2(Model):
    """Half-wide MobileNetV2 of stem stride 1, with dropout of 0.2 before the classifier.

    The features are 32, 16 and 8 pixels for a 32x32 input: the outputs of the first two stages,
    which are linear, and for "stage3" that of the last 1x1 convolution after its ReLU6. The
    embedding is taken before the dropout. Training needs the "dropout" key.

    Attributes:
      stages: for each stage, groups of (expansion, channels, blocks, stride of the first block).
    """

    stages: Sequence[Sequence[tuple[int, int, int, int]]] = _STAGES

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = record("stem", _ConvNorm(partial(conv, _STEM, 3), norm, name="features1_0")(x))
        for stage, groups in enumerate(self.stages, start=1):
            index = 1 if stage == 1 else 0  # the stem is the first of the first sequence
            for expansion, width, blocks, stride in groups:
                for i in range(blocks):
                    name = f"features{stage}_{index}"
                    x = _Block(width, expansion, stride if i == 0 else 1, norm, name=name)(x)
                    index += 1
            if stage == len(self.stages):
                x = _ConvNorm(partial(conv, _LAST, 1), norm, name=f"features{stage}_{index}")(x)
            x = record(f"stage{stage}", x)
        embedding = global_mean(record("final", x))
        dropped = Dropout(0.2, train, self.axis_name)(embedding)
        return classify(dropped, record, self.num_classes).replace(embedding=embedding)


class _Block(nn.Module):
    width: int
    expansion: int
    stride: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        hidden = self.expansion * x.shape[-1]
        y, index = x, 0
        if self.expansion > 1:
            y, index = _ConvNorm(partial(conv, hidden, 1), norm, name="conv_0")(y), 1
        depthwise = partial(conv, hidden, 3, self.stride, groups=hidden)
        y = _ConvNorm(depthwise, norm, name=f"conv_{index}")(y)
        y = conv(self.width, 1, dtype=dtype, name=f"conv_{index + 1}")(y)
        y = norm(name=f"conv_{index + 2}")(y)
        return x + y if x.shape == y.shape else y


class _ConvNorm(nn.Module):
    convolution: partial
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The names are the positions in PyTorch's sequence.
        x = self.convolution(dtype=self.norm.keywords["dtype"], name="0")(x)
        return nn.relu6(self.norm(name="1")(x))


class MobileNetV2Half(Model):
    """Half-wide MobileNetV2 of stem stride 2, with ReLU in place of ReLU6 and without dropout.

    The features "stage1" to "stage4" are the published ones, the linear outputs of groups 1, 2, 4
    and 6 (counted from 0): 16, 8, 4 and 2 pixels for a 32x32 input. "stem", 16 pixels, is taken
    after its ReLU. The last 1x1 convolution follows "stage4".

    Attributes:
      stages: for each stage, groups of (expansion, channels, blocks, stride of the first block).
    """

    stages: Sequence[Sequence[tuple[int, int, int, int]]] = _HALF_STAGES

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = conv(_HALF_STEM, 3, 2, dtype=self.dtype, name="conv1_0")(x)
        x = record("stem", nn.relu(norm(name="conv1_1")(x)))
        index = 0
        for stage, groups in enumerate(self.stages, start=1):
            for expansion, width, blocks, stride in groups:
                for i in range(blocks):
                    name = f"blocks_{index}_{i}"
                    x = _HalfBlock(width, expansion, stride if i == 0 else 1, norm, name=name)(x)
                index += 1
            x = record(f"stage{stage}", x)
        x = conv(_HALF_LAST, 1, dtype=self.dtype, name="conv2_0")(x)
        x = nn.relu(norm(name="conv2_1")(x))
        return classify(global_mean(record("final", x)), record, self.num_classes)


class _HalfBlock(nn.Module):
    width: int
    expansion: int
    stride: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The numbers are the positions in PyTorch's sequence. Unlike `_Block`, the first 1x1
        # convolution is there for an expansion of 1 too.
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        hidden = self.expansion * x.shape[-1]
        y = nn.relu(norm(name="conv_1")(conv(hidden, 1, dtype=dtype, name="conv_0")(x)))
        y = conv(hidden, 3, self.stride, groups=hidden, dtype=dtype, name="conv_3")(y)
        y = nn.relu(norm(name="conv_4")(y))
        y = norm(name="conv_7")(conv(self.width, 1, dtype=dtype, name="conv_6")(y))
        return x + y if x.shape == y.shape else y
