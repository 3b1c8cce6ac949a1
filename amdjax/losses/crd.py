"""Contrastive representation distillation: Tian, Krishnan & Isola, ICLR 2020."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from amdjax.losses import functional
from amdjax.losses.connectors import dense

_EPS = 1e-7  # added to the divisor of the probabilities, as published


class Memory(NamedTuple):
    """The embeddings of all training images by both networks, when each was last seen.

    Attributes:
      student: float32 [N,D], one row of unit norm for each training image.
      teacher: float32 [N,D].
      student_scale: float32 scalar, the constant by which the scores of the student's embeddings
        are divided; 0 before the first step.
      teacher_scale: float32 scalar, that of the teacher's.
    """

    student: jax.Array
    teacher: jax.Array
    student_scale: jax.Array
    teacher_scale: jax.Array


def crd_loss(
    student: jax.Array,
    teacher: jax.Array,
    memory: Memory,
    contrast_index: jax.Array,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> tuple[jax.Array, Memory]:
    """Returns the contrastive loss for each sample, and the memory after the step.

    `nce(exp(<b_T, s> / T) / Z_S) + nce(exp(<b_S, t> / T) / Z_T)`: each embedding is compared with
    rows b of the other network's memory, with
    `nce(o) = -log(o_0 / (o_0 + K / N)) - sum_(k >= 1) log((K / N) / (o_k + K / N))` for its own
    image (0) and K others. Z is N times the mean score of the first step.

    Args:
      student: float [B,D], of unit norm.
      teacher: float [B,D], of unit norm.
      memory: before the step; receives no gradient.
      contrast_index: int [B,K+1], rows of the memory, that of the sample first.
      temperature: T > 0.
      momentum: weight of the old row in the new one, `unit(momentum * row + (1 - momentum) * v)`.

    Returns:
      (float32 [B], the new memory).
    """
    memory = jax.lax.stop_gradient(memory)
    count = memory.student.shape[0]

    def score(embedding: jax.Array, bank: jax.Array) -> jax.Array:
        # All products at once: to gather K rows for each sample would move K * D numbers.
        products = jnp.matmul(embedding, bank.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.exp(jnp.take_along_axis(products, contrast_index, axis=1) / temperature)

    def contrast(scores: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = count * jax.lax.stop_gradient(jnp.mean(scores))
        scale = jnp.where(scale > 0, scale, first)
        return _nce(scores / scale, count), scale

    def update(bank: jax.Array, embedding: jax.Array) -> jax.Array:
        rows = contrast_index[:, 0]
        moved = momentum * bank[rows] + (1.0 - momentum) * jax.lax.stop_gradient(embedding)
        return bank.at[rows].set(moved / functional.safe_norm(moved, axis=1))

    student_loss, student_scale = contrast(score(student, memory.teacher), memory.student_scale)
    teacher_loss, teacher_scale = contrast(score(teacher, memory.student), memory.teacher_scale)
    updated = Memory(
        update(memory.student, student),
        update(memory.teacher, teacher),
        student_scale,
        teacher_scale,
    )
    return student_loss + teacher_loss, updated


def _nce(scores: jax.Array, count: int) -> jax.Array:
    """Returns the noise-contrastive loss [B] of scores [B,K+1] against a uniform distribution."""
    noise = (scores.shape[1] - 1) / count
    positive, negatives = scores[:, 0], scores[:, 1:]
    loss = jnp.log(positive / (positive + (noise + _EPS)))
    return -loss - jnp.sum(jnp.log(noise / (negatives + (noise + _EPS))), axis=1)


def draw_negatives(
    key: jax.Array, labels: jax.Array, memory_labels: jax.Array, count: int
) -> jax.Array:
    """Draws rows of other classes, uniformly and with replacement.

    Args:
      key: random key.
      labels: [B], the classes of the samples.
      memory_labels: [N], the classes of the rows.
      count: K, the number of rows for each sample.

    Returns:
      int32 [B,K].
    """
    by_class = jnp.argsort(memory_labels)
    in_order = memory_labels[by_class]
    first = jnp.searchsorted(in_order, labels, side="left")[:, None]
    size = jnp.searchsorted(in_order, labels, side="right")[:, None] - first
    others = memory_labels.shape[0] - size
    draws = jax.random.randint(key, (labels.shape[0], count), 0, others)
    return by_class[jnp.where(draws < first, draws, draws + size)]


class ContrastiveRepresentation(nn.Module):
    """`crd_loss` of trained linear embeddings of the student's and the teacher's embedding.

    The negatives are drawn in each step from the images of other classes, with replacement; the
    published code draws them without, where there are enough. The class of an image is known from
    the first time that it is in a batch; until then its row is random and counts as another class.
    The memory holds `2 * N * dimension` float32 numbers on every device and in every checkpoint:
    51 MB for CIFAR-100, 1.3 GB for ImageNet.

    Attributes:
      dimension: of the embeddings that are compared.
      negatives: K, number of negatives for each sample.
      temperature: as for `crd_loss`.
      momentum: as for `crd_loss`.
    """

    dimension: int = 128
    negatives: int = 16384
    temperature: float = 0.07
    momentum: float = 0.5

    @nn.compact
    def __call__(
        self,
        student_embedding: jax.Array,
        teacher_embedding: jax.Array,
        labels: jax.Array,
        example_index: jax.Array,
        num_examples: int,
        key: jax.Array,
    ) -> jax.Array:
        """Returns the loss, float32 [B].

        Args:
          student_embedding: float [B,D].
          teacher_embedding: float [B,D']; its trained linear layer receives a gradient.
          labels: int [B].
          example_index: int [B], rows of the training split.
          num_examples: N, the number of its rows.
          key: random key of the step.
        """

        def embed(x: jax.Array, name: str) -> jax.Array:
            x = dense(self.dimension, name=name)(functional.promote_to_float32(x))
            return functional.l2_normalize(x, axis=1)

        student = embed(student_embedding, "student")
        teacher = embed(jax.lax.stop_gradient(teacher_embedding), "teacher")
        memory = self.variable("state", "memory", self._new_memory, num_examples)
        # -1 is the class of unseen images.
        classes = self.variable("state", "classes", jnp.full, num_examples, -1, jnp.int32)
        seen = classes.value.at[example_index].set(labels)
        negatives = draw_negatives(key, labels, seen, self.negatives)
        contrast_index = jnp.concatenate([example_index[:, None], negatives], axis=1)
        loss, updated = crd_loss(
            student,
            teacher,
            Memory(**memory.value),
            contrast_index,
            self.temperature,
            self.momentum,
        )
        if not self.is_initializing():
            memory.value, classes.value = updated._asdict(), seen
        return loss

    def _new_memory(self, num_examples: int) -> dict[str, jax.Array]:
        bound = (3.0 / self.dimension) ** 0.5
        draw = nn.initializers.uniform(2.0 * bound)
        shape = (num_examples, self.dimension)
        banks = [draw(self.make_rng("params"), shape) - bound for _ in range(2)]
        return Memory(*banks, jnp.zeros(()), jnp.zeros(()))._asdict()
