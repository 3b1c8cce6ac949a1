"""ShuffleNet: Zhang et al., CVPR 2018, and ShuffleNetV2: Ma et al., ECCV 2018.

The variants for small images of RepDistiller (Tian et al., Contrastive representation distillation,
ICLR 2020): the stem is a 1x1 convolution of stride 1 without pooling. Modules have RepDistiller's
names, with `layer1.0.conv1` written as `layer1_0/conv1`; only its `linear` is called `fc`, as in
every family here.

Every stage of units halves the resolution, so "stage1" is the stem: for a 32x32 input "stem" and
"stage1", both the stem's output after its ReLU, are 32 pixels, and "stage2" to "stage4", the
outputs of the stages of units, 16, 8 and 4.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

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

_STEM, _LAST = 24, 1024
_GROUPS = 3
STAGES_V1 = ((240, 4), (480, 8), (960, 4))  # the widths for 3 groups
STAGES_V2 = ((116, 4), (232, 8), (464, 4))  # the width multiplier 1x


class ShuffleNetV1(Model):
    """ShuffleNet 1x with 3 groups: stages of 4, 8 and 4 units, 240, 480 and 960 channels wide.

    The features "stage2" to "stage4" are taken after the last ReLU of each stage.

    Attributes:
      stages: (width, units) of each stage.
    """

    stages: Sequence[tuple[int, int]] = STAGES_V1

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = nn.relu(norm(name="bn1")(conv(_STEM, 1, dtype=self.dtype, name="conv1")(x)))
        x = record("stage1", record("stem", x))
        for layer, (width, units) in enumerate(self.stages, start=1):
            for i in range(units):
                # The stem has too few channels for groups.
                groups = 1 if layer == 1 and i == 0 else _GROUPS
                x = _UnitV1(width, i == 0, groups, norm, name=f"layer{layer}_{i}")(x)
            x = record(f"stage{layer + 1}", x)
        return classify(global_mean(record("final", x)), record, self.num_classes)


class ShuffleNetV2(Model):
    """ShuffleNetV2 1x: three stages of 4, 8 and 4 units, 116, 232 and 464 channels wide.

    Attributes:
      stages: (width, units) of each stage.
    """

    stages: Sequence[tuple[int, int]] = STAGES_V2

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        x = nn.relu(norm(name="bn1")(conv(_STEM, 1, dtype=self.dtype, name="conv1")(x)))
        x = record("stage1", record("stem", x))
        for layer, (width, units) in enumerate(self.stages, start=1):
            x = _DownUnitV2(width, norm, name=f"layer{layer}_0")(x)
            for i in range(1, units):
                x = _UnitV2(norm, name=f"layer{layer}_{i}")(x)
            x = record(f"stage{layer + 1}", x)
        x = nn.relu(norm(name="bn2")(conv(_LAST, 1, dtype=self.dtype, name="conv2")(x)))
        return classify(global_mean(record("final", x)), record, self.num_classes)


def channel_shuffle(x: jax.Array, groups: int = 2) -> jax.Array:
    """Interleaves the groups of the channels.

    Args:
      x: [B,h,w,g*c].
      groups: g.

    Returns:
      [B,h,w,g*c], whose channel g*i + k is channel k*c + i of x: the i-th of group k.
    """
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)


class _UnitV1(nn.Module):
    width: int
    halve: bool
    groups: int  # of the first 1x1 convolution; the last one always has 3
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        width = self.width - x.shape[-1] if self.halve else self.width
        mid, stride = width // 4, 2 if self.halve else 1
        y = conv(mid, 1, groups=self.groups, dtype=dtype, name="conv1")(x)
        y = channel_shuffle(nn.relu(norm(name="bn1")(y)), self.groups)
        y = conv(mid, 3, stride, groups=mid, dtype=dtype, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))  # this ReLU is not in the paper
        y = norm(name="bn3")(conv(width, 1, groups=_GROUPS, dtype=dtype, name="conv3")(y))
        if not self.halve:
            return nn.relu(y + x)
        # Padded zeros count, as in PyTorch: the divisor is always 9.
        pooled = nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        return nn.relu(jnp.concatenate([y, pooled], axis=-1))


class _UnitV2(nn.Module):
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        kept, y = jnp.split(x, 2, axis=-1)
        width = y.shape[-1]
        y = nn.relu(norm(name="bn1")(conv(width, 1, dtype=dtype, name="conv1")(y)))
        y = norm(name="bn2")(conv(width, 3, groups=width, dtype=dtype, name="conv2")(y))
        y = nn.relu(norm(name="bn3")(conv(width, 1, dtype=dtype, name="conv3")(y)))
        return channel_shuffle(jnp.concatenate([kept, y], axis=-1))


class _DownUnitV2(nn.Module):
    width: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        half = self.width // 2
        channels = x.shape[-1]
        left = conv(channels, 3, 2, groups=channels, dtype=dtype, name="conv1")(x)
        left = norm(name="bn1")(left)
        left = nn.relu(norm(name="bn2")(conv(half, 1, dtype=dtype, name="conv2")(left)))
        right = nn.relu(norm(name="bn3")(conv(half, 1, dtype=dtype, name="conv3")(x)))
        right = norm(name="bn4")(conv(half, 3, 2, groups=half, dtype=dtype, name="conv4")(right))
        right = nn.relu(norm(name="bn5")(conv(half, 1, dtype=dtype, name="conv5")(right)))
        return channel_shuffle(jnp.concatenate([left, right], axis=-1))
