"""The command `python -m amdjax.teacher_outputs`, and students that learn from its file."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.teacher_outputs.write import write_outputs
from amdjax.training.run import prepare, run
from tests.tiny_run import QUICK_COMPILATION, ROOT, tiny_config

# A teacher that is not a network of amdjax: the classes of the test images differ in their colours.
_TEACHER = """
import numpy as np

COLOURS = np.random.default_rng(0).uniform(40, 215, [4, 3])


def teach(images):
    assert images.dtype == np.uint8 and images.shape[1:] == (16, 16, 3)
    colour = images.mean(axis=(1, 2))
    logits = -np.abs(colour[:, None] - COLOURS).sum(axis=-1) / 20
    stage1, stage2, stage3 = (images[:, ::n, ::n] / 255.0 for n in (1, 2, 4))
    features = {"stage1": stage1, "stage2": stage2, "stage3": stage3}
    return {"logits": logits, "embedding": colour, "features": features}
"""


def _command(cwd, images, *flags):
    words = [
        *(sys.executable, "-m", "amdjax.teacher_outputs", "--config=folder.py"),
        *(f"--config.data.folder={images}", "--config.data.image_size=16"),
        *(f"--config.data.data_dir={images.parent / 'prepared'}", "--config.augment.padding=0"),
    ]
    return subprocess.run(
        [*words, *map(str, flags)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILATION},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_command_writes_outputs_that_students_learn_from(images, tmp_path, capsys):
    (tmp_path / "colours.py").write_text(_TEACHER)
    listed = _command(tmp_path, images, "--list")
    assert listed.returncode == 0, listed.stderr
    rows = list(csv.DictReader(listed.stdout.splitlines()))
    assert (len(rows), rows[17]["index"], rows[17]["class"]) == (64, "17", "class_1")
    assert rows[17]["id"] == "train/class_1/001.png"
    written = _command(tmp_path, images, "--teacher=colours:teach", "--out=teacher.npz", "--test")
    assert written.returncode == 0, written.stderr
    assert "accuracy on the training images 100.00%" in written.stdout
    assert "accuracy on the test split: 100.00%" in written.stdout

    config = tiny_config(images, ("amd_gl+pkt",))
    config.augment.padding, config.max_steps = 0, 4
    config.losses.pkt.weight = 1.0
    config.teacher.outputs = str(tmp_path / "teacher.npz")
    capsys.readouterr()
    run(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "accuracy on the training images 100.00%" in out
    assert out.index("accuracy on the training images") < out.index("step 4/")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["teacher"] is None
    assert results["methods"].keys() == {"amd_gl+pkt"}
    assert not (tmp_path / "run/teacher").exists()
    # A file that was moved is the same teacher, another one is not.
    moved = tmp_path / "moved.npz"
    (tmp_path / "teacher.npz").rename(moved)
    config.teacher.outputs = str(moved)
    run(config, tmp_path / "run")
    arrays = dict(np.load(moved))
    np.savez(moved, **{**arrays, "logits": arrays["logits"] + 1})
    with pytest.raises(UserError, match=r"different config: teacher\.outputs: saved"):
        run(config, tmp_path / "run")


def test_outputs_for_images_of_another_size_are_noted(images, tmp_path, capsys):
    config = tiny_config(images, ("kd",))
    config.augment.padding, config.teacher.outputs = 0, str(tmp_path / "teacher.npz")
    larger = ml_collections.ConfigDict({**config.data.to_dict(), "image_size": 20})
    dataset = load_dataset(larger)
    logits, labels = np.zeros((64, 2, 4), np.float32), dataset.train.arrays()[1]
    path = Path(config.teacher.outputs)
    write_outputs(path, [{"logits": logits, "labels": labels}], dataset, larger)
    prepare(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert f"note: {path} was written for images of 20x20, and those of the students 16x16\n" in err


def test_command_refuses_what_it_cannot_write(images, tmp_path):
    (tmp_path / "colours.py").write_text(_TEACHER)
    (tmp_path / "there.npz").touch()
    failed = _command(tmp_path, images, "--teacher=colours:teach", "--out=there.npz")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == (
        "error: --out=there.npz exists; remove it or choose another name"
    )


def test_command_checks_the_settings_first(images, tmp_path):
    failed = _command(tmp_path, images, "--list", "--config.data.validation=1.5")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "error: config.data.validation must be at least 0 and below 1" in failed.stderr
