"""VGG for small images: Simonyan & Zisserman, Very deep convolutional networks, ICLR 2015.

With batch norm and one linear layer, as in RepDistiller (Tian et al., Contrastive representation
distillation, ICLR 2020). Modules have RepDistiller's names, with `block0.3` written as `block0_3`;
only its `classifier` is called `fc`, as in every family here.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax

from amdjax.models.layers import (
    BatchNorm,
    Dtype,
    FeatureHook,
    FeatureRecorder,
    Model,
    Outputs,
    classify,
    convolution,
    global_mean,
)

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(Model):
    """Five blocks of 3x3 convolutions, 64, 128, 256, 512 and 512 channels wide.

    The features "stage1" to "stage5" are the outputs of the blocks, after the ReLU: 32, 16, 8, 4
    and 4 pixels for a 32x32 input. Max-pooling by 2 separates the blocks; before the last block it
    is applied only to inputs of at least 64x64 (64, 32, 16, 8 and 4 pixels). "stem" is the output
    of the first convolution after its ReLU.

    Attributes:
      convolutions: the number of convolutions of each block.
    """

    convolutions: Sequence[int]

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        pools = 4 if x.shape[1] >= 64 else 3
        for block, (width, count) in enumerate(zip(_WIDTHS, self.convolutions, strict=True)):
            if 0 < block <= pools:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for i in range(count):
                # The numbers are the positions in PyTorch's sequence: convolution, norm, ReLU.
                x = _conv(width, self.dtype, name=f"block{block}_{3 * i}")(x)
                x = nn.relu(norm(name=f"block{block}_{3 * i + 1}")(x))
                if block == i == 0:
                    x = record("stem", x)
            x = record(f"stage{block + 1}", x)
        return classify(global_mean(record("final", x)), record, self.num_classes)


def _conv(width: int, dtype: Dtype, *, name: str) -> nn.Conv:
    # The bias has no effect before a batch norm; RepDistiller's weights have it.
    return nn.Conv(
        width,
        (3, 3),
        padding=1,
        dtype=dtype,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=convolution(),
        name=name,
    )
