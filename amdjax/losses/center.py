"""Center loss: Wen et al., A discriminative feature learning approach, ECCV 2016."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional


class Center(nn.Module):
    """The squared distance of each embedding from the centre of its class.

    `|x - c_y|^2` for each sample (Eq. 2 without its factor 1/2, as in the common code). For each
    batch, or part of it (`config.accumulate`), the centres take one step of gradient descent on the
    mean over its B images, `c_j -= rate * 2 / B * sum_(y = j) (c_j - x)`, independent of the
    optimiser and of the weight of the loss.

    Attributes:
      rate: learning rate of the centres.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, embedding: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the loss of embedding [B,D] and labels int [B], float32 [B].

        The logits [B,C] only give the number of classes C.
        """
        embedding = functional.promote_to_float32(embedding)
        shape = (logits.shape[-1], embedding.shape[-1])
        draw = nn.initializers.normal(1.0)
        centers = self.variable(
            "state", "centers", lambda: draw(self.make_rng("params"), shape, embedding.dtype)
        )
        difference = embedding - jax.lax.stop_gradient(centers.value)[labels]
        if not self.is_initializing():
            step = 2.0 * self.rate / embedding.shape[0]
            centers.value = centers.value.at[labels].add(step * jax.lax.stop_gradient(difference))
        return jnp.sum(jnp.square(difference), axis=-1)
