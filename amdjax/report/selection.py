"""The networks of a workdir that a report shows, and those that it compares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amdjax.comparison import (
    baseline_of,
    compare_conditions,
    conditions_of,
    learned_from,
    method_settings,
    trained_teacher_digest,
)
from amdjax.data import Dataset
from amdjax.trained import TrainedModel


def drop_other_inputs(
    networks: Sequence[TrainedModel], dataset: Dataset, imagenet_crop: bool
) -> tuple[list[TrainedModel], list[str]]:
    """Returns the networks whose input the images are, and a sentence for each of the others."""
    kept, skipped = [], []
    for network in networks:
        height, width, _ = dataset.image_shape if network.data is None else network.data.image_shape
        if (height, width) != dataset.image_shape[:2]:
            skipped.append(
                f"{network.name}: skipped: it was trained on images of {height}x{width}, and those "
                f"of this report are {'x'.join(map(str, dataset.image_shape[:2]))}"
            )
        elif network.data is not None and network.imagenet_crop != imagenet_crop:
            skipped.append(
                f"{network.name}: skipped: it was trained with config.data.random_resized_crop="
                f"{network.imagenet_crop}, and the images of this report are cropped for "
                f"{imagenet_crop}"
            )
        else:
            kept.append(network)
    return kept, skipped


def find_not_compared(
    networks: Sequence[TrainedModel], workdir: Path, max_steps: int
) -> dict[str, dict[int, str]]:
    """Returns the students that are not compared, and why.

    These are the unfinished ones, those of `compare_conditions`, and those that differ from most
    seeds of their method in the settings that belong to it.
    """
    conditions: dict[str, dict[int, dict[str, Any] | None]] = {}
    methods: dict[str, dict[int, dict[str, Any] | None]] = {}
    different: dict[str, dict[int, str]] = {}
    for network in networks:
        if network.data is None or network.is_teacher:
            continue
        by_seed = conditions.setdefault(network.label, {})
        if network.step < network.planned_steps(max_steps):
            reason = "its training is not finished"
            different.setdefault(network.label, {})[network.seed] = reason
            continue
        by_seed[network.seed] = {
            **conditions_of(
                network.settings,
                network.data,
                network.teacher_checkpoints,
                trained_teacher_digest(workdir, network.teacher),
            ),
            "steps": network.step,
        }
        of_method = method_settings(network.settings)
        methods.setdefault(network.label, {})[network.seed] = of_method
    if len(conditions) < 2 and not any(conditions.values()):
        return {}  # there is nothing that a run could be compared with
    compared = [(conditions, baseline_of(conditions))]
    compared += [({label: by_seed}, label) for label, by_seed in methods.items()]
    for runs, reference in compared:
        for label, by_seed in compare_conditions(runs, reference).items():
            different[label] = by_seed | different.get(label, {})
    return {label: different[label] for label in conditions if label in different}


def drop_incomparable(
    networks: Sequence[TrainedModel], different: dict[str, dict[int, str]]
) -> tuple[list[TrainedModel], list[str]]:
    """Returns the networks that are shown, and a sentence for each that is not compared.

    A mean over seeds is one of comparable runs: those of `find_not_compared` are shown only if
    their method has no others.
    """

    def is_compared(network: TrainedModel) -> bool:
        return network.seed not in different.get(network.label, {})

    compared = {network.label for network in networks if is_compared(network)}
    shown = [
        network for network in networks if is_compared(network) or network.label not in compared
    ]
    return shown, [
        f"{label}: seed {seed} is left out{'' if label in compared else ' of the tests'} ({reason})"
        for label, by_seed in different.items()
        for seed, reason in by_seed.items()
    ]


def comparison_teachers(networks: Sequence[TrainedModel], workdir: Path) -> dict[str, str]:
    """Returns the name of the teacher that each student is compared with, by student.

    Students that learned from another one than the teacher of that name here are left out.
    """
    teachers = {network.name: network for network in networks if network.is_teacher}
    return {
        network.name: network.teacher
        for network in networks
        if not network.is_teacher
        and network.teacher in teachers
        and learned_from(network, teachers[network.teacher], workdir)
    }
