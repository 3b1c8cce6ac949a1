"""Wide residual networks: Zagoruyko & Komodakis, BMVC 2016.

Modules carry the names of the common PyTorch implementation, `block1.layer.0.conv1` written as
`block1/layer_0/conv1`, which is all that `torch_import` needs to know.
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


class WideResNet(nn.Module):
    """WRN-d-k: three stages of (d - 4) / 6 pre-activation blocks, 16k, 32k and 64k channels wide.

    The features are the stages' outputs: sums, before the next batch norm and ReLU. For an input
    of 32x32 they measure 32, 16 and 8 pixels.

    Attributes:
      depth: d = 6n + 4.
      widen: k.
      num_classes: C.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: mapped axis over which batch norm averages in training; None: none.
    """

    depth: int
    widen: int
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
        x = record("stem", conv(16, 3, dtype=self.dtype, name="conv1")(x))
        for stage in (1, 2, 3):
            x = _Stage(
                blocks=(self.depth - 4) // 6,
                width=16 * self.widen * 2 ** (stage - 1),
                stride=1 if stage == 1 else 2,
                norm=norm,
                name=f"block{stage}",
            )(x)
            x = record(f"stage{stage}", x)
        embedding = global_mean(nn.relu(norm(name="bn1")(x)))
        return classify(embedding, record, self.num_classes)


class _Stage(nn.Module):
    blocks: int
    width: int
    stride: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            stride = self.stride if i == 0 else 1
            x = _Block(self.width, stride, self.norm, name=f"layer_{i}")(x)
        return x


class _Block(nn.Module):
    width: int
    stride: int
    norm: partial

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.norm.keywords["dtype"]
        y = nn.relu(self.norm(name="bn1")(x))
        if x.shape[-1] != self.width:
            # Where the width changes, the shortcut too starts from the activated input.
            x = conv(self.width, 1, self.stride, dtype=dtype, name="convShortcut")(y)
        y = conv(self.width, 3, self.stride, dtype=dtype, name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        return x + conv(self.width, 3, dtype=dtype, name="conv2")(y)
