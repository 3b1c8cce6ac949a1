"""Reused teacher classifier: Chen et al., Knowledge distillation with the reused teacher
classifier, CVPR 2022.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.connectors import RunningBatchNorm, conv
from amdjax.models.layers import Outputs


class SimKD(nn.Module):
    """The mean squared difference of the student's projected feature and the teacher's.

    The student predicts with the teacher's classifier after its projected feature, so the loss has
    no cross-entropy beside it. The classifier is copied into the state of the loss in every step,
    which makes the student's checkpoint complete.

    Attributes:
      factor: the projector has `C_T / factor` channels inside.
    """

    factor: int = 2

    def setup(self) -> None:
        """Creates projector and classifier."""
        self.projector = Projector(self.factor)
        self.classifier = KeptClassifier()

    def __call__(
        self,
        student: list[jax.Array],
        teacher: list[jax.Array],
        class_weights: jax.Array,
        class_bias: jax.Array,
    ) -> jax.Array:
        """Returns the loss, float32 [B]; the teacher's larger map is average-pooled.

        Args:
          student: one feature [B,H,W,C].
          teacher: one feature [B,H',W',C'], whose mean over positions the classifier reads.
          class_weights: float [C',K], of the teacher.
          class_bias: float [K], of the teacher.

        Raises:
          UserError: if there are several features, the student's is larger than the teacher's, or
            `factor` exceeds the teacher's channels.
        """
        if len(student) != 1:
            raise UserError(
                f"SimKD compares one layer, not {len(student)}: name one in "
                "config.losses.simkd.features"
            )
        feature = functional.promote_to_float32(student[0])
        target = functional.promote_to_float32(jax.lax.stop_gradient(teacher[0]))
        (height, width), (to_height, to_width) = feature.shape[1:3], target.shape[1:3]
        if height > to_height or width > to_width:
            raise UserError(
                f"SimKD predicts without the teacher's feature, but the student's ({height}x{width}"
                f") would be pooled to its size ({to_height}x{to_width}): choose a layer of the "
                "student that is not larger, with config.losses.simkd.features and teacher_features"
            )
        self.classifier(class_weights, class_bias)
        target = functional.adaptive_average_pool(target, height, width)
        projected = self.projector(feature, target.shape[-1], train=True)
        return jnp.mean(jnp.square(projected - target), axis=(1, 2, 3))

    def logits(self, outputs: Outputs, selection: Mapping[str, Any]) -> jax.Array:
        """Returns the logits of the teacher's classifier for the projected feature, float32 [B,K].

        Args:
          outputs: of the student.
          selection: with `features`, the name of the layer.
        """
        (layer,) = selection["features"]
        kernel, bias = self.classifier()
        feature = functional.promote_to_float32(outputs.features[layer])
        projected = self.projector(feature, kernel.shape[0], train=False)
        return projected.mean(axis=(1, 2)) @ kernel + bias


class KeptClassifier(nn.Module):
    """A linear classifier that is kept in the state of a loss and is not trained."""

    @nn.compact
    def __call__(
        self, kernel: jax.Array | None = None, bias: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns kernel [D,C] and bias [C], after replacing them by those that are given."""
        kept: Any = [
            self.variable("state", name, lambda value=value: value)
            for name, value in (("kernel", kernel), ("bias", bias))
        ]
        if kernel is not None:
            kept[0].value, kept[1].value = kernel, bias
        return kept[0].value, kept[1].value


class Projector(nn.Module):
    """1x1, 3x3 and 1x1 convolutions without bias, each followed by batch norm and ReLU.

    Attributes:
      factor: the inner channels are the outer ones divided by it.
    """

    factor: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, channels: int, train: bool) -> jax.Array:
        """Maps a feature [B,H,W,C] to [B,H,W,channels].

        Raises:
          UserError: if there would be no inner channels.
        """
        if not 1 <= self.factor <= channels:
            raise UserError(
                f"config.losses.simkd.factor={self.factor} divides the {channels} channels of the "
                f"teacher's feature; it must be between 1 and {channels}"
            )
        inner = channels // self.factor
        for i, (width, size) in enumerate(((inner, 1), (inner, 3), (channels, 1))):
            x = conv(width, (size, size), padding="SAME", use_bias=False, name=f"conv_{i}")(x)
            x = nn.relu(RunningBatchNorm(name=f"bn_{i}")(x, train))
        return x
