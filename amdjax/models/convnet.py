"""Plain convolutional networks of the angular-margin contrastive (AMC) loss.

Choi, Som & Turaga, AMC-Loss: angular margin contrastive loss for improved explainability in image
classification, CVPR workshops 2020 (the network in its repository), and the 13-layer network of
semi-supervised learning that it is derived from: Laine & Aila, Temporal ensembling, ICLR 2017.
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
    convolution,
    global_mean,
)


class ConvNet(Model):
    """Two stages of three 3x3 convolutions, then one unpadded 3x3 and some 1x1 convolutions.

    Each convolution is followed by a batch norm without scale and a leaky ReLU of slope 0.1;
    max-pooling by 2 and dropout of 0.5 follow each of the first two stages. Norm and initial
    weights are those of the repository's TensorFlow layers (no scale, 0.001 added to the variance,
    Glorot's uniform distribution), except that the running statistics have the momentum of the
    other models, and the classifier their first weights. Training needs the "dropout" key.

    The features are the last activations of the stages, before the pooling: 32, 16 and 6 pixels for
    a 32x32 input; "stem" is the first activation.

    Attributes:
      stages: the widths of the convolutions, for each of the three stages.
    """

    stages: Sequence[Sequence[int]]

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, feature_hook: FeatureHook | None = None
    ) -> Outputs:
        """Computes the outputs for images, see `Model`."""
        record = FeatureRecorder(feature_hook)
        norm = partial(BatchNorm, train=train, axis_name=self.axis_name, dtype=self.dtype)
        for stage, widths in enumerate(self.stages, start=1):
            last = stage == len(self.stages)
            for i, width in enumerate(widths):
                kernel = 1 if last and i > 0 else 3
                x = nn.Conv(
                    width,
                    (kernel, kernel),
                    padding="VALID" if last else "SAME",
                    use_bias=False,
                    dtype=self.dtype,
                    kernel_init=nn.initializers.glorot_uniform(),
                    conv_general_dilated=convolution(),
                    name=f"conv{stage}_{i}",
                )(x)
                x = norm(eps=1e-3, use_scale=False, name=f"bn{stage}_{i}")(x)
                x = nn.leaky_relu(x, 0.1)
                if stage == 1 and i == 0:
                    x = record("stem", x)
            x = record(f"stage{stage}", x)
            if not last:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
                x = Dropout(0.5, train, self.axis_name)(x)
        return classify(global_mean(record("final", x)), record, self.num_classes)
