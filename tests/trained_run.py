"""A finished run that several test files read, see the fixture `trained`."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

from amdjax.checkpoint import Checkpoints
from amdjax.configs import default
from amdjax.data import Fingerprint
from amdjax.run_description import RunDescription
from amdjax.training.run import run
from tests.tiny_run import tiny_config

METHODS = ("kd",)


def train(images: Path, workdir: Path) -> None:
    """Trains a teacher and a student, of which the EMA of the weights is evaluated."""
    config = tiny_config(images, METHODS)
    config.ema_decay = 0.5
    run(config, workdir)


def copy(workdir: Path, to: Path) -> Path:
    return Path(shutil.copytree(workdir, to))


def save_network(
    folder: Path,
    data: Fingerprint,
    variables: dict | None = None,
    step: int = 8,
    losses: dict | None = None,
    model: str = "resnet8",
) -> None:
    """Saves a checkpoint as a run of one epoch would, in batches of 8 images."""
    variables = variables or {"params": {"w": np.zeros(2, np.float32)}}
    settings = {"epochs": 1, "epoch_fraction": 1.0, "batch_size": 8, "losses": losses or {"ce": {}}}
    config = default.get_config().to_dict()
    settings |= {key: config[key] for key in ("augment", "data", "dtype")} | {"model": model}
    run = RunDescription(method="teacher", seed=0, teacher=None, data=data, settings=settings)
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder, run.to_dict()) as checkpoints:
        checkpoints.save(step, variables)


def add_student(
    workdir: Path, name: str, *, method: str = "", seed: int = 0, **settings: object
) -> None:
    """Adds a student with the weights of `kd` and other settings."""
    copy(workdir / "kd", workdir / name)
    change_run(workdir / name, method=method or name, seed=seed)
    change_settings(workdir / name, **settings)


def change_settings(folder: Path, **settings: object) -> None:
    """Sets settings in the description of a run."""
    run = json.loads((folder / "run.json").read_text())
    change_run(folder, settings={**run["settings"], **settings})


def change_run(folder: Path, **values: object) -> None:
    """Sets entries of the description of a run, in `run.json` and in the checkpoints."""
    change(folder / "run.json", **values)
    for checkpoint in (folder / "checkpoints").iterdir():
        description = json.loads((checkpoint / "run" / "metadata").read_text())["description"]
        change_saved(checkpoint, description={**description, **values})


def change_saved(checkpoint: Path, **values: object) -> None:
    """Sets entries of the JSON file of a checkpoint."""
    file = checkpoint / "run" / "metadata"
    change(file, **values)
    checksum = f"{zlib.crc32(file.read_bytes()):08x}"
    change(checkpoint / "checksums.json", **{"run/metadata": checksum})


def change(path: Path, **values: object) -> None:
    """Sets entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def forget_description(folder: Path) -> None:
    """Makes the checkpoints of a run like those of versions without checksums."""
    for checkpoint in (folder / "checkpoints").iterdir():
        shutil.rmtree(checkpoint / "run")
        (checkpoint / "checksums.json").unlink()
