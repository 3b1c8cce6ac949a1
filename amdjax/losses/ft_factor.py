"""Factor transfer with paraphraser and translator: Kim, Park & Kwak, NeurIPS 2018."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.errors import UserError
from amdjax.losses import functional
from amdjax.losses.connectors import BatchStatisticsNorm, conv
from amdjax.losses.ft import ft_loss

_SLOPE = 0.1  # of the leaky ReLUs


class FactorTransfer(nn.Module):
    """`ft_loss` of the student's translator and the teacher's paraphraser.

    Both reduce a feature to `factor = int(rate * C_T)` channels with three 3x3 convolutions and
    leaky ReLUs; the translator has batch norms, with the statistics of the batch, so the loss needs
    the whole batch. The paraphraser is an autoencoder of the teacher's feature.

    In the published training, the paraphraser is trained before the student and then frozen. Here
    both are trained together: the loss is the distance of the factors, which sends no gradient to
    the paraphraser, plus `reconstruction_weight` times the mean squared reconstruction error, whose
    gradient only the paraphraser receives.

    Attributes:
      rate: channels of the factors as a fraction of the teacher's.
      reconstruction_weight: weight of the reconstruction error. The default cancels the default
        weight 200 of the loss.
    """

    rate: float = 0.5
    reconstruction_weight: float = 0.005

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Returns the loss of features [B,H,W,C] and [B,H',W',C'], float32 [B].

        The larger factor is average-pooled.

        Raises:
          UserError: if `rate` leaves no channel of the factors.
        """
        student, teacher = functional.comparable(student_feature, teacher_feature)
        channels = teacher.shape[-1]
        factor = int(self.rate * channels)
        if factor < 1:
            raise UserError(
                f"config.losses.ft_factor.rate={self.rate} of the teacher's {channels} channels "
                "leaves no channel of the factors; choose a larger one, such as 0.5"
            )
        translator = ConvStack((student.shape[-1], factor, factor), True, name="translator")
        student_factor = translator(student)
        teacher_factor = ConvStack((channels, factor, factor), name="encoder")(teacher)
        reconstructed = ConvStack((factor, channels, channels), name="decoder")(teacher_factor)
        reconstruction = jnp.mean(jnp.square(reconstructed - teacher), axis=(1, 2, 3))
        distance = factor_distance(student_factor, teacher_factor)
        return distance + self.reconstruction_weight * reconstruction


def factor_distance(student_factor: jax.Array, teacher_factor: jax.Array) -> jax.Array:
    """Returns `ft_loss` of factors [B,H,W,C] of any sizes, the larger average-pooled."""
    return ft_loss(*functional.pool_to_smaller(student_factor, teacher_factor))


class ConvStack(nn.Module):
    """Three 3x3 convolutions, each followed by a leaky ReLU.

    Attributes:
      channels: of the three convolutions.
      batch_norm: normalize before each leaky ReLU.
    """

    channels: tuple[int, int, int]
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps a feature [B,H,W,C] to [B,H,W,channels[-1]]."""
        for i, channels in enumerate(self.channels):
            x = conv(channels, (3, 3), padding=1, name=f"conv_{i}")(x)
            x = BatchStatisticsNorm(name=f"bn_{i}")(x) if self.batch_norm else x
            x = nn.leaky_relu(x, _SLOPE)
        return x
