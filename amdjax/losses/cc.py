"""Correlation congruence: Peng et al., ICCV 2019, in the form of the common benchmark code."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import dense


def cc_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns the product of student-teacher differences of neighbouring samples.

    `mean_i sum_d |s_i - t_i|_d |s_(i+1) - t_(i+1)|_d` over the B - 1 pairs of neighbours in the
    whole batch; 0 for a batch of one sample.

    Args:
      student: embedding, float [B,D], the whole batch.
      teacher: embedding, float [B,D]; receives no gradient.

    Returns:
      float32 scalar.

    Raises:
      UserError: if the embeddings have different shapes.
    """
    return _congruence(*functional.comparable_entries(student, teacher))


class CorrelationCongruence(nn.Module):
    """`cc_loss` of embeddings that two trained linear layers map to a common length.

    Attributes:
      dimension: the common length.
    """

    dimension: int = 128

    @nn.compact
    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Returns the loss of embeddings [B,D] and [B,D'], a float32 scalar.

        The teacher's embedding receives no gradient, but its linear layer is trained.
        """
        student = dense(self.dimension, name="student")(student)
        teacher = dense(self.dimension, name="teacher")(jax.lax.stop_gradient(teacher))
        return _congruence(student, teacher)


def _congruence(student: jax.Array, teacher: jax.Array) -> jax.Array:
    difference = functional.abs_zero_grad(student - teacher)
    products = jnp.sum(difference[:-1] * difference[1:], axis=1)
    return jnp.sum(products) / max(len(products), 1)
