"""Variational information distillation: Ahn et al., CVPR 2019."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import conv

_INITIAL_VARIANCE = 5.0
_EPS = 1e-5  # the published minimum of the variance


class VariationalInformation(nn.Module):
    """The negative log-likelihood of a teacher feature, given the student's.

    `mean_hwc 0.5 ((mu - f_T)^2 / var_c + log var_c)` (Eqs. 4 and 5). mu is the student's feature
    after three trained 1x1 convolutions, with the teacher's number of channels and ReLU between
    them. `var_c = softplus(p_c) + 1e-5` is trained too and starts at 5.
    """

    @nn.compact
    def __call__(self, student_feature: jax.Array, teacher_feature: jax.Array) -> jax.Array:
        """Returns the loss of features [B,H,W,C] and [B,H',W',C'], float32 [B].

        The larger map is average-pooled. The teacher's feature receives no gradient.

        Raises:
          UserError: if the larger map is not a whole multiple of the smaller.
        """
        x, teacher = functional.comparable_maps(student_feature, teacher_feature)
        channels = teacher.shape[-1]
        for i in range(3):
            x = conv(channels, (1, 1), use_bias=False, name=f"regressor_{i}")(x)
            x = nn.relu(x) if i < 2 else x
        initial = jnp.log(jnp.expm1(_INITIAL_VARIANCE - _EPS))
        raw = self.param("log_scale", nn.initializers.constant(initial), (channels,))
        variance = nn.softplus(raw) + _EPS
        likelihood = jnp.square(x - teacher) / variance + jnp.log(variance)
        return 0.5 * jnp.mean(likelihood, axis=(1, 2, 3))
