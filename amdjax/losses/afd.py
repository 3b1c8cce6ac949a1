"""Attention-based feature matching: Ji, Heo & Park, Show, attend and distill, AAAI 2021."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import dense


class Summary(NamedTuple):
    """The reductions of a feature that AFD compares, small enough to be gathered.

    Attributes:
      channels: float32 [B,C], means over the positions.
      positions: float32 [B,H,W], means of the squares over the channels.
    """

    channels: jax.Array
    positions: jax.Array


def summarize(feature: jax.Array) -> Summary:
    """Reduces a feature [B,H,W,C] to its `Summary`."""
    feature = functional.promote_to_float32(feature)
    return Summary(jnp.mean(feature, axis=(1, 2)), jnp.mean(jnp.square(feature), axis=-1))


class AttentionFeatureMatching(nn.Module):
    """The distance of all pairs of student and teacher layers, weighted by a trained attention.

    `sum_t mean_b sum_s alpha_ts mean_hw (v_s - v_t)^2` (Eqs. 2 to 5). v is `Summary.positions` at
    unit L2 norm, the student's first resized to the teacher's size. alpha is the softmax over the
    student's layers of `(q_t . BN(W_t k_s) + p_t . p_s) / sqrt(dimension)`. The queries q and keys
    k are the channel means of teacher and student after a linear layer and batch norm, and for k a
    ReLU. BN, the batch norm, uses the statistics of the batch (after W_t, of the samples and the
    student's layers together), so the loss needs the whole batch.

    Attributes:
      dimension: length of queries and keys.
    """

    dimension: int = 128

    @nn.compact
    def __call__(self, student: list[Summary], teacher: list[Summary]) -> jax.Array:
        """Returns the loss of all layers, a float32 scalar; the teacher receives no gradient.

        Raises:
          UserError: if the size of one map is not a whole multiple of the other's.
        """
        teacher = jax.lax.stop_gradient(teacher)
        queries = jnp.stack(
            [self._linear(t.channels, self.dimension, f"query_{i}") for i, t in enumerate(teacher)],
            axis=1,
        )
        keys = jnp.stack(
            [self._linear(s.channels, self.dimension, f"key_{i}") for i, s in enumerate(student)],
            axis=1,
        )
        batch, layers = keys.shape[:2]
        keys = nn.relu(keys).reshape(batch * layers, self.dimension)
        bilinear = self._linear(keys, self.dimension * len(teacher), "bilinear")
        bilinear = bilinear.reshape(batch, layers, len(teacher), self.dimension)
        init = nn.initializers.xavier_normal()
        position_t = self.param("p_t", init, (len(teacher), self.dimension))
        position_s = self.param("p_s", init, (layers, self.dimension))
        logits = jnp.einsum("bstd,btd->bts", bilinear, queries) + position_t @ position_s.T
        attention = nn.softmax(logits / jnp.sqrt(self.dimension), axis=-1)
        loss = jnp.zeros((), keys.dtype)
        for i, layer in enumerate(teacher):
            height, width = layer.positions.shape[1:]
            values = jnp.stack(
                [_unit(functional.resize(s.positions, height, width)) for s in student], axis=1
            )
            distance = jnp.square(values - _unit(layer.positions)[:, None]).mean(axis=(2, 3))
            loss += jnp.mean(jnp.sum(attention[:, i] * distance, axis=1))
        return loss

    def _linear(self, x: jax.Array, features: int, name: str) -> jax.Array:
        """Applies a linear layer and batch norm with the statistics of the batch."""
        x = dense(features, name=f"{name}_linear")(x)
        scale = self.param(f"{name}_scale", nn.initializers.ones, (features,))
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (features,))
        return functional.batch_norm(x, x.mean(0), x.var(0), scale, bias)


def _unit(x: jax.Array) -> jax.Array:
    return functional.l2_normalize(x, axis=(1, 2))
