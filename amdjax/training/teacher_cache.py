"""Teacher cache: logits, embedding and attention maps of every training image, computed once."""

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from amdjax import distributed
from amdjax.data import Batch, EvalBatches, prefetch
from amdjax.losses.functional import attention_map
from amdjax.models import Outputs
from amdjax.training.trainer import Trainer


def cache_teacher_outputs(trainer: Trainer, variables: dict) -> Outputs:
    """Computes a teacher's outputs for every training image, and for its mirror image with flips.

    Args:
      trainer: whose teacher and training images to use; its objective decides which attention maps
        are kept.
      variables: the teacher's, replicated.

    Returns:
      Outputs of float32 arrays in the host's memory, [n,views,...]: logits, embedding, and for
      each layer that a loss reads a feature [n,views,h,w,1] with the same attention map as the
      teacher's feature.
    """
    config, source = trainer.config, trainer.dataset.train
    layers = trainer.objective.attention_features

    def outputs_of(variables: dict, images: jax.Array) -> Outputs:
        normalized = trainer.predictor.normalize(images)
        outputs = trainer.teacher.apply(variables, normalized, train=False)
        # One channel whose square is the sum of the squares of all.
        features = {
            layer: jnp.sqrt(attention_map(outputs.features[layer]))[..., None] for layer in layers
        }
        return outputs.replace(features=features, class_weights=None, class_bias=None)

    def step(variables: dict, batch: Batch) -> Outputs:
        views = [batch["image"]]
        if config.augment.flip:
            views.append(batch["image"][:, :, ::-1])
        outputs = [outputs_of(variables, images) for images in views]
        return jax.tree.map(lambda *x: distributed.gather(jnp.stack(x, axis=1)), *outputs)

    compiled = distributed.shard_step(step, trainer.mesh, batch_argument=1)
    batches = EvalBatches(
        source, config.batch_size, distributed.process_index(), distributed.process_count()
    )
    cache: Outputs | None = None
    bar = tqdm(total=len(source), desc="caching teacher outputs", unit=" images", disable=None)
    with bar:
        for index, batch in enumerate(prefetch(batches, 0, len(batches))):
            outputs = jax.device_get(compiled(variables, distributed.shard(batch, trainer.mesh)))
            first = index * config.batch_size
            count = min(config.batch_size, len(source) - first)
            if cache is None:
                cache = jax.tree.map(
                    lambda x: np.empty([len(source), *x.shape[1:]], x.dtype), outputs
                )
            for array, rows in zip(jax.tree.leaves(cache), jax.tree.leaves(outputs), strict=True):
                array[first : first + count] = rows[:count]
            bar.update(count)
    assert cache is not None, "a training split is never empty"
    return cache
