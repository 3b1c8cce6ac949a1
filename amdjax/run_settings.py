"""The settings that the numbers of a run depend on, which its description has."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import ml_collections

from amdjax.config import flat_settings
from amdjax.data.fingerprint import Fingerprint
from amdjax.data.policies import AUGMENTATIONS, policy_names
from amdjax.experiment import RunSpec, optim_of
from amdjax.imports import code_digests, imported_files
from amdjax.methods import EARLY_TEACHER
from amdjax.pretrained import teacher_name, teacher_sources
from amdjax.run_description import RunDescription
from amdjax.teacher_outputs.stored import open_outputs

# Settings that may change when a run is resumed: its numbers do not depend on them, apart from
# rounding (whether a teacher's outputs are computed once, and seeds trained as one program).
_FREE_SETTINGS = (
    "imports",
    "methods",
    "seeds",
    "seeds_at_once",
    "sweep",
    "max_steps",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "profile",
    "trackers",
    "data.data_dir",
    "data.folder",  # the fingerprint of the data is compared instead
    "data.unlabeled",
    "data.unlabeled_only",
    "data.unknown",
    "data.accept_changes",
    "data.memory_gib",
    "data.device_gib",
    "teacher.cached",
)
# Settings of the whole experiment that `RunSpec` replaces with the values of one run.
_PLANNED_SETTINGS = ("seed", "losses", "student", "teacher", "mix", "init_from")


def describe_run(
    config: ml_collections.ConfigDict,
    spec: RunSpec,
    data: Fingerprint,
    teacher_checkpoints: Sequence[Mapping[str, Any]] = (),
) -> RunDescription:
    """Returns the description of a run: its identity, its data, and its settings.

    The settings are those that `check_resumable` compares.

    Args:
      config: of the experiment.
      spec: of the run.
      data: fingerprint of its data.
      teacher_checkpoints: the checkpoints of the teacher that the config gives, see `GivenTeacher`.
    """
    return RunDescription(
        method=spec.method,
        seed=spec.seed,
        teacher=spec.teacher,
        data=data,
        settings=run_settings(config, spec),
        sweep_key=spec.sweep_key,
        sweep_value=spec.sweep_value,
        imports=imported_files(config.imports),
        code=code_digests(config.imports),
        teacher_checkpoints=tuple(teacher_checkpoints) if spec.teacher is not None else (),
    )


def run_settings(config: ml_collections.ConfigDict, spec: RunSpec) -> dict[str, Any]:
    """Returns the settings that the numbers of a run depend on, as JSON values."""
    settings = flat_settings(config)
    # The settings of augmentations that are not used come and go with `config.imports`.
    policies = (config.augment.policy, config.augment.strong_policy)
    used = {name for policy in policies for name in policy_names(policy)}
    unused = (f"augment.{name}" for name in AUGMENTATIONS if name not in used)
    excluded = (*_FREE_SETTINGS, *_PLANNED_SETTINGS, *unused)
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in excluded)
    }
    run = flax.traverse_util.unflatten_dict(kept, sep=".") | {
        "seed": spec.seed,
        "model": spec.model,
        "losses": spec.losses,
        "epoch_fraction": spec.epoch_fraction,
        "optim": optim_of(config, spec).to_dict(),
    }
    if not spec.is_teacher:
        run["init_from"] = config.init_from
        mixes = config.mix.name != "none"
        run["mix"] = config.mix.to_dict() if mixes else {"name": config.mix.name}
    if spec.teacher is not None:
        run["teacher"] = teacher_settings(config)
    if spec.teacher == EARLY_TEACHER:
        run["teacher"]["early_fraction"] = config.teacher.early_fraction
    return json.loads(json.dumps(run))  # as it is read back: tuples become lists


def teacher_settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings that say which teacher the students of a config learn from, as JSON."""
    if config.teacher.outputs:
        return {"outputs": open_outputs(config.teacher.outputs).digest}
    if config.teacher.ensemble:
        return {"ensemble": [source._asdict() for source in teacher_sources(config.teacher)]}
    return {
        "seed": config.seed,
        "name": teacher_name(config.teacher),
        "checkpoint": config.teacher.checkpoint,
    }
