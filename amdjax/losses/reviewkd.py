"""Knowledge review: Chen et al., Distilling knowledge via knowledge review, CVPR 2021."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import BatchStatisticsNorm, conv

_POOLED_SIZES = (4, 2, 1)


def hcl_loss(
    student_features: Sequence[jax.Array], teacher_features: Sequence[jax.Array]
) -> jax.Array:
    """Returns the hierarchical context loss, summed over the layers, for each sample.

    The weighted mean of the mean squared differences of two maps and of their average pools to
    4x4, 2x2 and 1x1 positions, as far as these are smaller than the height. The maps have the
    weight 1, the pools 1/2, 1/4 and 1/8, in the order in which they are used.

    Args:
      student_features: features [B,H,W,C].
      teacher_features: features of the same shapes; receive no gradient.

    Returns:
      float32 [B].

    Raises:
      UserError: if the shapes of a layer differ.
    """
    loss = jnp.zeros((), jnp.float32)
    for student, teacher in zip(student_features, teacher_features, strict=True):
        difference = jnp.subtract(*functional.comparable_entries(student, teacher))
        layer, weight, total = jnp.mean(jnp.square(difference), axis=(1, 2, 3)), 1.0, 1.0
        for size in (size for size in _POOLED_SIZES if size < student.shape[1]):
            pooled = functional.adaptive_average_pool(difference, size, size)
            weight /= 2.0
            layer += weight * jnp.mean(jnp.square(pooled), axis=(1, 2, 3))
            total += weight
        loss += layer / total
    return loss


class ReviewKD(nn.Module):
    """`hcl_loss` of the teacher's features and the student's after their fusion.

    From the output to the input, an attention-based fusion adds the features of the deeper layers
    to those of a layer; the deepest "layer" is the embedding, as a map of one position. Batch norm
    uses the statistics of the batch, so the loss needs the whole batch.

    Attributes:
      max_width: maximum of the channels of the fusion, which has those of the student's embedding.
    """

    max_width: int = 512

    @nn.compact
    def __call__(
        self,
        student: list[jax.Array],
        teacher: list[jax.Array],
        student_embedding: jax.Array,
        teacher_embedding: jax.Array,
    ) -> jax.Array:
        """Returns the loss, float32 [B]; the teacher receives no gradient.

        Args:
          student: features [B,H,W,C], from the input to the output.
          teacher: as many features [B,H',W',C'].
          student_embedding: [B,D].
          teacher_embedding: [B,D'].
        """
        teacher = [*teacher, teacher_embedding[:, None, None]]
        student = [*student, student_embedding[:, None, None]]
        width = min(self.max_width, student_embedding.shape[-1])
        fused, deeper = [], None
        for i, (s, t) in enumerate(zip(student[::-1], teacher[::-1], strict=True)):
            block = AttentionFusion(width, t.shape[1:], name=f"fusion_{i}")
            deeper, output = block(functional.promote_to_float32(s), deeper)
            fused.append(output)
        return hcl_loss(fused[::-1], teacher)


class AttentionFusion(nn.Module):
    """The fusion of one layer with the deeper layers.

    Attributes:
      width: channels of the fusion.
      shape: (H', W', C') of the teacher's feature.
    """

    width: int
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, deeper: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Fuses a feature [B,H,W,C] with the fusion of the deeper layers [B,h,w,width].

        Returns:
          (fusion [B,H',W',width] for the next layer, feature [B,H',W',C'] for the loss).
        """
        # conv1 and conv2 have the variance of Flax's default in the published code, too.
        x = BatchStatisticsNorm(name="bn1")(
            nn.Conv(self.width, (1, 1), use_bias=False, name="conv1")(x)
        )
        if deeper is not None:
            deeper = resize_nearest(deeper, *x.shape[1:3])
            attention = conv(2, (1, 1), name="attention")(jnp.concatenate([x, deeper], axis=-1))
            attention = nn.sigmoid(attention)
            x = x * attention[..., :1] + deeper * attention[..., 1:]
        height, width, channels = self.shape
        x = resize_nearest(x, height, width)
        output = nn.Conv(channels, (3, 3), padding=1, use_bias=False, name="conv2")(x)
        return x, BatchStatisticsNorm(name="bn2")(output)


def resize_nearest(x: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes maps to any size: position i of n has the value of position `i * length // n`.

    Args:
      x: float [B,H,W,...].
      height: of the result.
      width: of the result.

    Returns:
      float [B,height,width,...].
    """
    for axis, size in ((1, height), (2, width)):
        if x.shape[axis] != size:
            x = jnp.take(x, jnp.arange(size) * x.shape[axis] // size, axis=axis)
    return x
