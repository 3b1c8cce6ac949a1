"""Wide residual networks: Zagoruyko & Komodakis, BMVC 2016.

Modules have the names of the common PyTorch implementation, with `block1.layer.0.conv1` written as
`block1/layer_0/conv1`, by which `torch_import` finds their weights.
"""

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


class WideResNet(Model):
    """WRN-d-k: three stages of (d - 4) / 6 pre-activation blocks, 16k, 32k and 64k channels wide.

    The features are the outputs of the stages, before the next batch norm and ReLU: 32, 16 and 8
    pixels for a 32x32 input.

    Attributes:
      depth: d = 6n + 4.
      widen: k.
    """

    depth: int
    widen: int

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
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
        embedding = global_mean(record("final", nn.relu(norm(name="bn1")(x))))
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
            # Where the width changes, the shortcut starts from the activated input too.
            x = conv(self.width, 1, self.stride, dtype=dtype, name="convShortcut")(y)
        y = conv(self.width, 3, self.stride, dtype=dtype, name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        return x + conv(self.width, 3, dtype=dtype, name="conv2")(y)
