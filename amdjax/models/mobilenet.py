"""MobileNetV2: Sandler et al., Inverted residuals and linear bottlenecks, CVPR 2018.

The narrow variant for small images in the repository jeunsom/TGD, which has the 0.6 million
parameters printed by its first author's paper on angular distributions (Jeon et al., Neurocomputing
2023). Modules carry the names there, `features1.1.conv.0.0` written as `features1_1/conv_0/0`; only
its `classifier.1` is called `fc`, as in every family here.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.models.layers import (
    BatchNorm,
    Dropout,
    Dtype,
    FeatureHook,
    FeatureRecorder,
    Outputs,
    classify,
    conv,
    global_mean,
)

_STEM, _LAST = 8, 640
# Stages of groups of (expansion, channels, blocks, stride of the first block). The definition says
# 12 channels in its second group and rounds them to a multiple of 8.
_STAGES = (
    ((1, 8, 1, 1), (6, 16, 2, 1)),
    ((6, 16, 3, 2), (6, 32, 4, 1), (6, 48, 3, 1)),
    ((6, 80, 3, 2), (6, 160, 1, 1)),
)


class MobileNetV2(nn.Module):
    """Half-wide MobileNetV2 of stem stride 1, with dropout of 0.2 before the classifier.

    The features are 32, 16 and 8 pixels for a 32x32 input: the outputs of the first two stages,
    which are linear, and for "stage3" that of the last 1x1 convolution behind its ReLU6. The
    embedding is noted before the dropout. In training the "dropout" key is needed.

    Attributes:
      num_classes: C.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch norm averages in training, and along which the batch
        is divided for dropout; None: none.
    """

    num_classes: int
    dtype: Dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Maps images float [B,H,W,3] to `Outputs`; `feature_hook` may replace features."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = record("stem", _ConvNorm(partial(conv, _STEM, 3), norm, name="features1_0")(x))
        for stage, groups in enumerate(_STAGES, start=1):
            index = 1 if stage == 1 else 0  # the stem is the first of the first sequence
            for expansion, width, blocks, stride in groups:
                for i in range(blocks):
                    name = f"features{stage}_{index}"
                    x = _Block(width, expansion, stride if i == 0 else 1, norm, name=name)(x)
                    index += 1
            if stage == len(_STAGES):
                x = _ConvNorm(partial(conv, _LAST, 1), norm, name=f"features{stage}_{index}")(x)
            x = record(f"stage{stage}", x)
        embedding = global_mean(x)
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
        depthwise = partial(depthwise_conv, hidden, self.stride)
        y = _ConvNorm(depthwise, norm, name=f"conv_{index}")(y)
        y = conv(self.width, 1, dtype=dtype, name=f"conv_{index + 1}")(y)
        y = norm(name=f"conv_{index + 2}")(y)
        return x + y if x.shape == y.shape else y


class _ConvNorm(nn.Module):
    convolution: partial
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # The layers are called by their positions in PyTorch's sequence.
        x = self.convolution(dtype=self.norm.keywords["dtype"], name="0")(x)
        return nn.relu6(self.norm(name="1")(x))


def depthwise_conv(
    features: int, stride: int = 1, *, dtype: Dtype, name: str
) -> Callable[[jax.Array], jax.Array]:
    """Returns a 3x3 convolution of each of the features alone, without bias and padded by 1.

    The weights are drawn from N(0, 2 / (9 * features)) as those of `conv`, which is PyTorch's
    fan-out of a depthwise kernel too.
    """
    return nn.Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=1,
        feature_group_count=features,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )
