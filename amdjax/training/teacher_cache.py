"""A teacher that is asked once: what the losses need of it, for every image of a data set."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from amdjax import distributed
from amdjax.data import EvalBatches, ImageSource, TrainBatches, prefetch
from amdjax.data.augment import create_augment, draw_flips
from amdjax.data.pipeline import Batch
from amdjax.errors import UserError
from amdjax.losses import Objective
from amdjax.losses.functional import attention_map
from amdjax.models import Outputs


def check_teacher_cache(
    config: ml_collections.ConfigDict, objective: Objective, student: Outputs, teacher: Outputs
) -> None:
    """Makes sure that the answers to unchanged images are all that training will need.

    Args:
      config: the run's.
      objective: of the phase.
      student: what the student puts out; only shapes matter.
      teacher: what the teacher puts out; only shapes matter.

    Raises:
      UserError: if an image is changed by more than a flip, or a loss needs more of the teacher
        than logits, embedding and attention maps of the student's size.
    """
    changes = {
        "augment.padding": config.augment.padding > 0,
        "augment.noise": config.augment.noise > 0,
        "data.random_resized_crop": config.data.random_resized_crop,
        "mix.name": config.mix.name in ("mixup", "cutmix") and config.mix.teacher_sees_mixed,
    }
    for key, changed in changes.items():
        if changed:
            section, name = key.split(".")
            raise UserError(
                f"config.teacher.cached asks the teacher once about each image, but "
                f"config.{key}={config[section][name]!r} changes the images; switch one of the "
                "two off"
            )
    if objective.uncacheable_losses:
        raise UserError(
            "config.teacher.cached keeps the teacher's logits, embedding and attention maps, but "
            f"{' and '.join(objective.uncacheable_losses)} reads whole features; switch it off"
        )
    for place in objective.attention_features:
        ours, theirs = student.features[place].shape[1:3], teacher.features[place].shape[1:3]
        if theirs[0] > ours[0] or theirs[1] > ours[1]:
            raise UserError(
                f"config.teacher.cached: the teacher's {place} ({theirs[0]}x{theirs[1]}) is larger "
                f"than the student's ({ours[0]}x{ours[1]}) and would be pooled before its "
                "attention map is taken; switch it off"
            )


def cache_teacher_outputs(
    teacher: nn.Module,
    variables: dict,
    split: ImageSource,
    places: tuple[str, ...],
    config: ml_collections.ConfigDict,
    mesh: Mesh,
) -> Outputs:
    """Asks a teacher about every image of a split, and about its mirror image if there are flips.

    Args:
      teacher: the network.
      variables: its variables, replicated.
      split: the images.
      places: the features to keep the attention maps of.
      config: the run's.
      mesh: of all devices.

    Returns:
      Outputs of float32 arrays in the host's memory, [n,views,...]: logits, embedding, and for
      each place a feature [n,views,h,w,1] that has the attention map of the teacher's.
    """
    normalize = create_augment(config.augment)[1]

    def ask(variables: dict, batch: dict[str, jax.Array]) -> Outputs:
        views = [batch["image"]]
        if config.augment.flip:
            views.append(batch["image"][:, :, ::-1])
        answers = [_shrink(teacher.apply(variables, normalize(x), train=False)) for x in views]
        return jax.tree.map(lambda *x: distributed.gather(jnp.stack(x, axis=1)), *answers)

    def _shrink(outputs: Outputs) -> Outputs:
        # One channel whose square is the sum of the squares of all.
        features = {
            place: jnp.sqrt(attention_map(outputs.features[place]))[..., None] for place in places
        }
        return outputs.replace(features=features, class_weights=None)

    batches = EvalBatches(
        split, config.batch_size, distributed.process_index(), distributed.process_count()
    )
    step = distributed.shard_step(ask, mesh, batch_argument=1)
    kept = None
    bar = tqdm(total=len(split), desc="asking the teacher", unit=" images", disable=None)
    with bar:
        for index, batch in enumerate(prefetch(batches, 0, len(batches))):
            answers = jax.device_get(step(variables, distributed.shard(batch, mesh)))
            first = index * config.batch_size
            count = min(config.batch_size, len(split) - first)
            if kept is None:
                kept = jax.tree.map(
                    lambda x: np.empty([len(split), *x.shape[1:]], x.dtype), answers
                )
            for place, rows in zip(jax.tree.leaves(kept), jax.tree.leaves(answers), strict=True):
                place[first : first + count] = rows[:count]
            bar.update(count)
    return kept


@dataclasses.dataclass(frozen=True)
class CachedTeacherBatches:
    """Batches with what the teacher said of their examples as "teacher"."""

    batches: TrainBatches
    answers: Outputs

    def __getitem__(self, step: int) -> Batch:
        """Reads this process's rows of batch `step`."""
        indices = self.batches.indices(step)
        answers = jax.tree.map(lambda x: x[indices], self.answers)
        return {**self.batches[step], "teacher": answers}


def lookup_teacher_outputs(answers: Outputs, keys: jax.Array) -> Outputs:
    """Inside a step: what the teacher said of the views that the augmentation makes.

    Args:
      answers: this shard's rows of `cache_teacher_outputs`'s.
      keys: random keys [b] of the examples.

    Returns:
      Outputs, as the teacher's own but for features of one channel.
    """
    views = jnp.zeros(len(keys), jnp.int32)
    if answers.logits.shape[1] > 1:
        views = draw_flips(keys).astype(jnp.int32)

    def pick(x: Any) -> jax.Array:
        return jax.vmap(lambda both, view: both[view])(x, views)

    return jax.tree.map(pick, answers)
