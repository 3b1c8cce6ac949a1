"""Two steps of every pair of `cifar100.py` on generated images, with a teacher of random weights.

The pairs take minutes to compile, so they are skipped by default:

    AMDJAX_ALL_PAIRS=1 python -m pytest --durations=0 tests/test_cifar100_pairs.py
"""

import json
import os

import flax.traverse_util
import jax
import numpy as np
import pytest

from amdjax.checkpoint import read_network
from amdjax.configs import cifar100
from amdjax.export.torch_weights import to_torch_state_dict
from amdjax.models import create_model, init_variables
from amdjax.training import run as run_module
from tests.export.random_variables import draw_variables
from tests.make_data import write_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("AMDJAX_ALL_PAIRS") != "1",
        reason="compiles for minutes; AMDJAX_ALL_PAIRS=1 runs it",
    ),
]

SIZE, CLASSES, STEPS = 32, 4, 2


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "set", CLASSES, per_class=4, size=SIZE)


def _config(setup, images, teacher):
    config = cifar100.get_config(setup)
    config.methods = ("at+amd_gl",)
    config.teacher.checkpoint = str(teacher)
    config.data.name, config.data.folder = "folder", str(images)
    config.data.data_dir, config.data.image_size = str(images.parent / "prepared"), SIZE
    config.batch_size, config.max_steps, config.log_every_steps = 8, STEPS, 1
    config.optim.weight_decay = 0.0  # it would move parameters that have no gradient
    return config


@pytest.mark.parametrize("setup", cifar100.SETUPS)
def test_pair_trains_every_parameter_of_the_student(
    setup, images, tmp_path, monkeypatch, one_device
):
    imported = []  # the teacher's variables as the run holds them, and their evaluation
    evaluate_given_teacher = run_module.evaluate_given_teacher

    def keep_teacher(*arguments):
        imported.append(evaluate_given_teacher(*arguments))
        return imported[0]

    monkeypatch.setattr(run_module, "evaluate_given_teacher", keep_teacher)
    teacher, student = cifar100.SETUPS[setup]
    drawn = draw_variables(create_model(teacher, CLASSES), SIZE)
    np.savez(tmp_path / "teacher.npz", **to_torch_state_dict(teacher, drawn))
    config = _config(setup, images, tmp_path / "teacher.npz")
    assert run_module.run(config, tmp_path / "run")

    (metrics,) = (tmp_path / "run").glob("*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "train"]
    assert len(rows) == STEPS
    values = [[row[name] for name in ("loss", "ce", "kd", "at", "am", "grad_norm")] for row in rows]
    assert np.all(np.isfinite(values))
    assert min(values[0]) > 0  # of random weights; later both networks may be sure of one class
    step, trained = read_network(metrics.parent)
    assert step == STEPS
    key = jax.random.key(np.uint32(config.seed))
    initial = init_variables(create_model(student, CLASSES), key, (SIZE, SIZE, 3))
    before, after = (flax.traverse_util.flatten_dict(x, sep="/") for x in (initial, trained))
    assert before.keys() == after.keys()
    assert [path for path in before if np.all(before[path] == after[path])] == []
    jax.tree.map(np.testing.assert_array_equal, imported[0][0], drawn)
