"""Teacher cache: logits, embedding and attention maps of every training image, computed once."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from amdjax import distributed
from amdjax.config import flat_settings, forward_batch_size, image_changing_setting, views_per_image
from amdjax.data import Batch, EvalBatches
from amdjax.losses.functional import attention_map
from amdjax.models import Outputs
from amdjax.training.dummy_outputs import output_shapes
from amdjax.training.step_runner import device_memory_left
from amdjax.training.trainer import Trainer


def is_cacheable(trainer: Trainer) -> bool:
    """Returns whether to compute the teacher's outputs once for each training image.

    With `config.teacher.cached`, where that gives the same losses, saves time, and the outputs fit
    into `config.data.memory_gib` and leave the training set in the accelerators' memory, if it is
    there.

    Args:
      trainer: of a run that learns from a network.
    """
    config, objective, source = trainer.config, trainer.objective, trainer.dataset.train
    if not config.teacher.cached or image_changing_setting(flat_settings(config)):
        return False
    if objective.uncacheable_losses:
        return False
    assert trainer.teacher is not None, "a run that learns from a network has a teacher"
    shape = trainer.dataset.image_shape
    teacher = output_shapes(trainer.teacher, shape)
    maps = [teacher.features[layer].shape for layer in objective.attention_features]
    if any(len(x) != 4 for x in maps):  # such as tokens, of a registered network and loss
        return False
    if objective.pooled_pair(output_shapes(trainer.student, shape), teacher):
        return False
    views = views_per_image(config)
    if views * len(source) >= trainer.total_steps * config.batch_size:
        return False
    sizes = [teacher.logits.shape[1], teacher.embedding.shape[1], *(h * w for _, h, w, _ in maps)]
    outputs_gib = 4 * views * len(source) * sum(sizes) / 2**30
    limit = config.data.memory_gib
    left = device_memory_left(trainer)
    return outputs_gib <= (min(limit, left) if left >= 0 else limit)


class TeacherCache:
    """The newest outputs from `cache_teacher_outputs`, for runs one after the other.

    Runs that follow each other, such as the seeds of a method, often need the same. Only one cache
    is kept: with attention maps it can take a gigabyte.
    """

    def __init__(self) -> None:
        self._key: tuple[str | None, tuple[str, ...]] | None = None
        self._outputs: Outputs | None = None

    def outputs(
        self,
        trainer: Trainer,
        teacher: str | None,
        variables: dict,
        stop_requested: Callable[[], bool],
    ) -> Outputs | None:
        """Returns `cache_teacher_outputs`, computed unless the run before needed the same.

        Args:
          trainer: of the run; data set, devices and augmentation are the same at each call.
          teacher: name of the teacher's run.
          variables: the teacher's, replicated.
          stop_requested: as for `cache_teacher_outputs`.
        """
        key = teacher, trainer.objective.attention_features
        if self._outputs is None or key != self._key:
            self._outputs = None  # its memory is free before the next one is computed
            self._key = key
            distributed.print_note(
                f"computing the teacher's outputs for {len(trainer.dataset.train):,} images, once"
            )
            self._outputs = cache_teacher_outputs(trainer, variables, stop_requested)
        return self._outputs


def cache_teacher_outputs(
    trainer: Trainer, variables: dict, stop_requested: Callable[[], bool] = lambda: False
) -> Outputs | None:
    """Computes a teacher's outputs for every training image, and for its mirror image with flips.

    Args:
      trainer: whose teacher and training images to use; its objective decides which attention maps
        are kept.
      variables: the teacher's, replicated.
      stop_requested: called after each batch, by all processes; True ends the computation.

    Returns:
      Outputs of float32 arrays in the host's memory, [n,views,...]: logits, embedding, and for
      each layer that a loss reads a feature [n,views,h,w,1] with the same attention map as the
      teacher's feature. None if the computation was ended.
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
        views = (batch["image"], batch["image"][:, :, ::-1])[: views_per_image(config)]
        outputs = [outputs_of(variables, images) for images in views]
        return jax.tree.map(lambda *x: distributed.all_gather(jnp.stack(x, axis=1)), *outputs)

    compiled = distributed.shard_step(step, trainer.mesh, batch_argument=1)
    batch_size = forward_batch_size(config)
    batches = EvalBatches(
        source, batch_size, distributed.process_index(), distributed.process_count()
    )

    def computed() -> Iterator[Outputs]:
        """Yields the outputs of each batch, while the devices compute those of the next one."""
        previous = None
        for batch in batches:
            outputs = compiled(variables, distributed.shard(batch, trainer.mesh))
            distributed.block_on_cpu(outputs)
            if previous is not None:
                yield jax.device_get(previous)
            previous = outputs
        yield jax.device_get(previous)

    cache: Outputs | None = None
    hidden = None if distributed.is_primary() else True  # None: unless stderr is a terminal
    bar = tqdm(total=len(source), desc="caching teacher outputs", unit=" images", disable=hidden)
    with bar:
        for index, outputs in enumerate(computed()):
            first = index * batch_size
            count = min(batch_size, len(source) - first)
            if cache is None:
                cache = jax.tree.map(
                    lambda x: np.empty([len(source), *x.shape[1:]], x.dtype), outputs
                )
            for array, rows in zip(jax.tree.leaves(cache), jax.tree.leaves(outputs), strict=True):
                array[first : first + count] = rows[:count]
            bar.update(count)
            if stop_requested():
                return None
    assert cache is not None, "a training split is never empty"
    return cache
