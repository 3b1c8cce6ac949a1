"""A run that takes seconds: a folder of small images, the smallest networks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_collections

from amdjax.configs import folder

ROOT = Path(__file__).parents[1]
QUICK_COMPILATION = "--xla_backend_optimization_level=1"


def shrink(config: ml_collections.ConfigDict, images: Path) -> ml_collections.ConfigDict:
    """Makes any recipe one of two epochs of eight steps on 64 images of 16x16."""
    with config.unlocked():
        config.data.update(
            {
                "name": "folder",
                "folder": str(images),
                "data_dir": str(images.parent / "prepared"),
                "image_size": 16,
            }
        )
        config.teacher.name = "wrn_10_1"
        config.student.name = "resnet8"
        config.batch_size = 8
        config.epochs = 2
        config.optim.boundaries = (1,)
        config.optim.learning_rate = 0.02
        config.log_every_steps = 4
    return config


def tiny_config(images: Path, methods: tuple[str, ...]) -> ml_collections.ConfigDict:
    config = shrink(folder.get_config(), images)
    config.methods = methods
    config.losses.am.weight = 50.0
    return config


PYTHON = [sys.executable, "-m", "amdjax.main"]


def command(images: Path, workdir: Path, *flags: str, methods: str = "amd_gl") -> list[str]:
    """The command line of the same run."""
    return [
        *PYTHON,
        "--config=configs/folder.py",
        f"--workdir={workdir}",
        f"--config.data.folder={images}",
        f"--config.data.data_dir={images.parent / 'prepared'}",
        "--config.data.image_size=16",
        "--config.teacher.name=wrn_10_1",
        "--config.student.name=resnet8",
        f"--config.methods={methods}",
        "--config.batch_size=8",
        "--config.epochs=2",
        "--config.optim.boundaries=(1,)",
        "--config.optim.learning_rate=0.02",
        "--config.losses.am.weight=50",
        "--config.log_every_steps=1",
        *flags,
    ]


def start(words: list[str], **environment: str) -> subprocess.Popen:
    """Starts a command in the repository's root, on one device unless told otherwise."""
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": QUICK_COMPILATION, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(words: list[str], **environment: str) -> tuple[int, str, str]:
    """Runs a command to its end; returns exit code, stdout and stderr."""
    process = start(words, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen) -> None:
    """Returns when a file has so many lines; an error if the process ends before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} has not got {lines} lines")


def metrics_lines(folder: Path) -> list[dict]:
    """Returns the lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def complete_steps(folder: Path) -> list[int]:
    """Returns the steps of a run's checkpoints; a killed run may leave a part of another."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())
