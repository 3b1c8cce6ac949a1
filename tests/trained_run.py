"""A finished run that several test files look at and none of them changes."""

import functools
import json
import shutil
from pathlib import Path

from amdjax.training.run import run
from tests.tiny_run import tiny_config

METHODS = ("kd",)


@functools.cache
def trained(images: Path) -> Path:
    """Trains a teacher and a student, whose means over the steps are evaluated."""
    config = tiny_config(images, METHODS)
    config.ema_decay = 0.5
    workdir = images.parent / "trained"
    run(config, workdir)
    return workdir


def copy(workdir: Path, to: Path) -> Path:
    return Path(shutil.copytree(workdir, to))


def add_student(workdir: Path, name: str, **recipe: object) -> None:
    """Adds a student with the weights of `kd` and another recipe."""
    copy(workdir / "kd", workdir / name)
    change(workdir / name / "recipe.json", **recipe)


def change(path: Path, **values: object) -> None:
    """Sets entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
