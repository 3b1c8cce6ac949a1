"""ShuffleNetV2: Ma et al., ShuffleNet V2: practical guidelines, ECCV 2018.

The form for small images in RepDistiller (Tian et al., Contrastive representation distillation,
ICLR 2020): the stem is a 1x1 convolution of stride 1 without pooling. Modules carry the names
there, `layer1.0.conv1` written as `layer1_0/conv1`; only its `linear` is called `fc`, as in every
family here.
"""

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
from amdjax.models.mobilenet import depthwise_conv

_STEM, _LAST = 24, 1024
_STAGES = ((116, 4), (232, 8), (464, 4))  # width and units of the network called "1x"


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1x: three stages of 4, 8 and 4 units, 116, 232 and 464 channels wide.

    Every stage halves the resolution, so the first place is the stem: for a 32x32 input "stem" and
    "stage1", both the stem's output behind its ReLU, measure 32 pixels, and "stage2" to "stage4",
    the outputs of the stages of units, 16, 8 and 4.

    Attributes:
      num_classes: C.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch norm averages in training; None: none.
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
        x = nn.relu(norm(name="bn1")(conv(_STEM, 1, dtype=self.dtype, name="conv1")(x)))
        x = record("stage1", record("stem", x))
        for layer, (width, units) in enumerate(_STAGES, start=1):
            x = _DownUnit(width, norm, name=f"layer{layer}_0")(x)
            for i in range(1, units):
                x = _Unit(norm, name=f"layer{layer}_{i}")(x)
            x = record(f"stage{layer + 1}", x)
        x = nn.relu(norm(name="bn2")(conv(_LAST, 1, dtype=self.dtype, name="conv2")(x)))
        return classify(global_mean(x), record, self.num_classes)


def channel_shuffle(x: jax.Array) -> jax.Array:
    """Interleaves the two halves of the channels.

    Args:
      x: [B,h,w,2c].

    Returns:
      [B,h,w,2c], whose channels 2i and 2i + 1 are the channels i and c + i of x.
    """
    halves = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    return jnp.swapaxes(halves, -1, -2).reshape(x.shape)


class _Unit(nn.Module):
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        kept, y = jnp.split(x, 2, axis=-1)
        width = y.shape[-1]
        y = nn.relu(norm(name="bn1")(conv(width, 1, dtype=dtype, name="conv1")(y)))
        y = norm(name="bn2")(depthwise_conv(width, dtype=dtype, name="conv2")(y))
        y = nn.relu(norm(name="bn3")(conv(width, 1, dtype=dtype, name="conv3")(y)))
        return channel_shuffle(jnp.concatenate([kept, y], axis=-1))


class _DownUnit(nn.Module):
    width: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        norm, dtype = self.norm, self.norm.keywords["dtype"]
        half = self.width // 2
        left = norm(name="bn1")(depthwise_conv(x.shape[-1], 2, dtype=dtype, name="conv1")(x))
        left = nn.relu(norm(name="bn2")(conv(half, 1, dtype=dtype, name="conv2")(left)))
        right = nn.relu(norm(name="bn3")(conv(half, 1, dtype=dtype, name="conv3")(x)))
        right = norm(name="bn4")(depthwise_conv(half, 2, dtype=dtype, name="conv4")(right))
        right = nn.relu(norm(name="bn5")(conv(half, 1, dtype=dtype, name="conv5")(right)))
        return channel_shuffle(jnp.concatenate([left, right], axis=-1))
