"""Trained networks are read back from their workdir."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from amdjax.data import Fingerprint, load_dataset
from amdjax.errors import UserError
from amdjax.losses.margin_softmax import cosine_logits
from amdjax.metrics import negative_log_likelihood
from amdjax.run_description import read_run
from amdjax.trained import load_run, restore, restore_all, run_names
from amdjax.workdir import read_config
from tests.trained_run import (
    add_student,
    change,
    change_run,
    change_settings,
    copy,
    forget_description,
)


@pytest.fixture(scope="module")
def workdir(trained):
    return trained


@pytest.fixture(scope="module")
def test_split(workdir):
    test = load_dataset(read_config(workdir).data).test
    return test.read(np.arange(len(test)))


@pytest.mark.parametrize("name", ["teacher", "kd"])
def test_restored_network_has_the_nll_of_its_evaluation(workdir, test_split, name):
    network, (images, labels) = restore(workdir / name, 4), test_split
    results = json.loads((workdir / "results.json").read_text())
    final = results["teacher"] if name == "teacher" else results["methods"][name]
    assert network.step == final["final"]["step"] == 16
    assert network.is_teacher == (name == "teacher")
    nll = negative_log_likelihood(network.logits(images), labels)
    np.testing.assert_allclose(nll, final["final"]["nll"], rtol=1e-5)


def test_restored_network_predicts_by_the_logits_of_its_loss(workdir, test_split, tmp_path):
    there = copy(workdir, tmp_path / "run")
    add_student(there, "arcface", losses={"arcface": {"weight": 1.0, "scale": 32.0}})
    network = restore(there / "arcface", 4)
    outputs = network.predictor(network.variables, test_split[0])
    expected = cosine_logits(outputs.embedding, outputs.class_weights, 32.0)
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5)


def test_restored_networks_of_one_definition_share_a_predictor(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    mean = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    add_student(there, "at", losses={"ce": {}, "at": {}})
    add_student(there, "cosface", losses={"cosface": {}})
    settings = json.loads((there / "kd" / "run.json").read_text())["settings"]
    add_student(there, "black", augment={**settings["augment"], **mean})
    kd, at, cosface, black = (
        restore(there / name, 4).predictor for name in ("kd", "at", "cosface", "black")
    )
    assert kd == at
    assert hash(kd) == hash(at)
    assert kd not in (cosface, black)


def test_restore_takes_the_ema_where_there_is_one(workdir):
    folder = workdir / "kd" / "checkpoints" / "16" / "default"
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder.absolute())
    variables = restore(workdir / "kd", 4).variables
    jax.tree.map(np.testing.assert_array_equal, variables, state["ema"])
    last, mean = (tree["params"]["fc"]["kernel"] for tree in (state, variables))
    assert np.abs(last - mean).max() > 1e-6


def test_restore_all_orders_networks_and_skips_twins(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    for name, seed in (("at-seed3", 3), ("at", 0)):
        add_student(there, name, method="at", seed=seed)
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert [(n.method, n.seed) for n in networks[-2:]] == [("at", 0), ("at", 3)]
    assert missing == []
    copy(there / "at", there / "at-seed0")
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert missing == ["at-seed0: skipped: at has the same method and seed"]


def test_restore_all_reports_missing_networks(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    change(there / "config.json", methods=["scratch", "kd", "eskd"])
    for file in (there / "kd" / "checkpoints").glob("*/checksums.json"):
        file.write_bytes(b"")
    change_settings(there / "teacher", epochs=5)
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher"]
    sentences = dict(sentence.split(": ", 1) for sentence in missing)
    assert sentences.keys() == {"teacher_early", "scratch", "kd", "eskd", "teacher"}
    assert "has no checkpoint yet" in sentences["scratch"]
    assert "holds no complete checkpoint" in sentences["kd"]
    assert sentences["teacher"] == "trained for 16 of 40 steps so far"
    assert all(len(sentence.splitlines()) == 1 for sentence in missing)


def test_restore_all_says_that_max_steps_ended_the_training(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    config = read_config(there)
    steps = read_run(there / "kd").length.steps(64)
    change(there / "config.json", max_steps=steps)
    for name in ("teacher", "kd"):
        change_settings(there / name, epochs=50)
    _, notes = restore_all(there, read_config(there), read_run(there / "kd").data)
    assert len(notes) == 1, notes
    assert notes[0].startswith("teacher, kd: trained for ")
    assert notes[0].endswith(f" steps (config.max_steps={steps})")
    assert config.max_steps == 0


def test_restore_all_prefers_an_imported_teacher(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    config = read_config(there)
    config.teacher.checkpoint = str(workdir / "teacher")
    assert run_names(there, config) == ["kd"]
    config.teacher.checkpoint, config.teacher.outputs = "", "outputs.npz"
    assert run_names(there, config) == ["kd"]
    config.teacher.checkpoint, config.teacher.outputs = str(workdir / "teacher"), ""
    networks, missing = restore_all(there, config, read_run(there / "kd").data)
    assert (networks[0].name, networks[0].step, networks[0].length) == ("teacher", 0, None)
    assert missing == []
    config.teacher.checkpoint = str(tmp_path / "nothing")
    networks, missing = restore_all(there, config, read_run(there / "kd").data)
    assert [network.name for network in networks] == ["kd"]
    assert len(missing) == 1
    assert "nothing does not exist" in missing[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").write_text("{"), "run.json is damaged"),
        (lambda folder: (folder / "run.json").write_text("{}"), "run.json is damaged"),
        (lambda folder: (folder / "run.json").write_bytes(b"\xff"), "run.json is damaged"),
        (
            lambda folder: (folder / "run.json").unlink(),
            r"has no run\.json, and no checkpoint that describes its run; copy the whole folder",
        ),
        (
            lambda folder: (folder / "run.json").rename(folder / "recipe.json"),
            r"was written by amdjax 0\.1",
        ),
        (lambda folder: change(folder / "run.json", settings={}), "run.json is damaged"),
        (lambda folder: change(folder / "run.json", data=None), "run.json is damaged"),
    ],
)
def test_restore_refuses_a_damaged_run_without_another_description(
    workdir, tmp_path, spoil, message
):
    folder = copy(workdir / "kd", tmp_path / "kd")
    forget_description(folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        restore(folder, 4)


def test_restore_reads_checkpoints_without_checksums(workdir, tmp_path):
    folder = copy(workdir / "kd", tmp_path / "kd")
    forget_description(folder)
    ours, theirs = restore(folder), restore(workdir / "kd")
    assert (ours.label, ours.step, ours.predictor) == (theirs.label, theirs.step, theirs.predictor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": None}, "run.json is damaged"),
        ({"epoch_fraction": "all"}, "run.json is damaged"),
        ({"model": "resnet14"}, "does not match resnet14"),
    ],
)
def test_restore_refuses_other_settings(workdir, tmp_path, settings, message):
    folder = copy(workdir / "kd", tmp_path / "kd")
    change_settings(folder, **settings)
    with pytest.raises(UserError, match=message):
        restore(folder, 4)


def test_restore_refuses_other_classes(workdir):
    with pytest.raises(UserError, match="has 4 classes, the data set 5"):
        restore(workdir / "kd", 5)


def test_load_run_needs_the_folder_of_a_run(workdir):
    for folder, message in (
        (workdir / "nowhere", "load_run: .*nowhere does not exist$"),
        (workdir, "is a workdir; name one of its runs: "),
    ):
        with pytest.raises(UserError, match=message):
            load_run(folder)


def test_load_run_reads_a_network_without_its_data(workdir):
    network = load_run(str(workdir / "kd"))
    assert (network.method, network.label, network.seed, network.teacher) == (
        *("kd", "kd", 0, "teacher"),
    )
    assert repr(network).startswith("TrainedModel(method='kd', seed=0")
    assert "array" not in repr(network)  # a notebook shows it at the end of a cell
    assert network.logits(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 4)
    for shape, dtype in (
        ((2, 16, 16, 3), np.float32),
        ((2, 32, 32, 3), np.uint8),
        ((16, 16, 3), np.uint8),
        ((2, 3, 16, 16), np.uint8),
    ):
        with pytest.raises(UserError, match=r"images must be uint8 \[B,16,16,3\] of values from"):
            network.logits(np.zeros(shape, dtype))


def test_restore_all_skips_networks_of_other_classes(workdir):
    names = ("class_0", "class_1", "class_2", "zebra")
    data = Fingerprint("folder", names, (16, 16, 3), {"train": 64, "test": 32})
    networks, notes = restore_all(workdir, read_config(workdir), data)
    assert networks == []
    assert len(notes) == 2
    assert all("missing: 'class_3'; new: 'zebra'" in note for note in notes)


def test_run_spec_keeps_method_seed_and_sweep_as_data(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    sweep = {"key": "losses.kd.weight", "value": 0.5}
    change_run(there / "kd", seed=7, sweep=sweep)
    network = restore(there / "kd", 4)
    assert (network.label, network.seed) == ("kd-kd.weight=0.5", 7)
    assert (network.sweep_key, network.sweep_value) == ("losses.kd.weight", 0.5)
