"""A workdir is enough by itself: its config and its networks are read back from it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from amdjax.config import plan_runs, read_config
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.losses.margin_softmax import cosine_logits
from amdjax.metrics import negative_log_likelihood
from amdjax.models import create_model, init_variables
from amdjax.workdir import Predictor, forward, phase_names, restore, restore_all
from tests.tiny_run import tiny_config
from tests.trained_run import METHODS, add_student, change, copy, trained


@pytest.fixture(scope="module")
def workdir(images):
    return trained(images)


@pytest.fixture(scope="module")
def test_split(workdir):
    test = load_dataset(read_config(workdir).data).test
    return test.read(np.arange(len(test)))


def test_the_config_is_that_of_the_run(images, workdir):
    config = tiny_config(images, METHODS)
    config.ema_decay = 0.5
    assert read_config(workdir).to_dict() == config.to_dict()
    assert plan_runs(read_config(workdir)) == plan_runs(config)


def test_settings_that_are_newer_than_a_run_have_their_defaults(workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    del config["seeds_at_once"], config["losses"]["am"]["margin"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path).to_dict() == read_config(workdir).to_dict()


def test_bfloat16_on_cpu_is_float32_but_for_rounding():
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    variables = init_variables(create_model("wrn_10_1", 10), jax.random.key(0), (32, 32, 3))
    logits = [
        forward(
            Predictor(create_model("wrn_10_1", 10, dtype), lambda x: x, (0.5,) * 3, (0.25,) * 3),
            variables,
            images,
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    np.testing.assert_allclose(logits[1], logits[0], atol=0.05 * np.abs(logits[0]).max())


@pytest.mark.parametrize("name", ["teacher", "kd"])
def test_a_network_says_what_it_said_in_its_evaluation(workdir, test_split, name):
    network, (images, labels) = restore(workdir / name, 4), test_split
    results = json.loads((workdir / "results.json").read_text())
    final = results["teacher"] if name == "teacher" else results["methods"][name]
    assert network.step == final["final"]["step"] == 16
    assert network.is_teacher == (name == "teacher")
    nll = negative_log_likelihood(network.kind(network.variables, images).logits, labels)
    np.testing.assert_allclose(nll, final["final"]["nll"], rtol=1e-5)


def test_a_loss_of_angles_predicts_by_angles(workdir, test_split, tmp_path):
    there = copy(workdir, tmp_path / "run")
    add_student(there, "arcface", losses={"arcface": {"weight": 1.0, "scale": 32.0}})
    network = restore(there / "arcface", 4)
    outputs = network.kind(network.variables, test_split[0])
    expected = cosine_logits(outputs.embedding, outputs.class_weights, 32.0)
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5)


def test_networks_of_one_kind_share_it(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    mean = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    add_student(there, "at", losses={"ce": {}, "at": {}})
    add_student(there, "cosface", losses={"cosface": {}})
    add_student(there, "black", augment=mean)
    kd, at, cosface, black = (
        restore(there / name, 4).kind for name in ("kd", "at", "cosface", "black")
    )
    assert kd == at
    assert hash(kd) == hash(at)
    assert kd not in (cosface, black)


def test_means_over_the_steps_are_taken_where_there_are_any(workdir):
    folder = workdir / "kd" / "checkpoints" / "16" / "default"
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder.absolute())
    variables = restore(workdir / "kd", 4).variables
    jax.tree.map(np.testing.assert_array_equal, variables, state["ema"])
    last, mean = (tree["params"]["fc"]["kernel"] for tree in (state, variables))
    assert np.abs(last - mean).max() > 1e-6


def test_the_order_of_networks(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    for left, seed in (("at-seed3", 3), ("at", 0)):
        add_student(there, left, seed=seed)
    networks, missing = restore_all(there, read_config(there), 4, 64)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert [(n.method, n.seed) for n in networks[-2:]] == [("at", 0), ("at", 3)]
    assert {n.swept for n in networks} == {""}
    change(there / "at" / "recipe.json", swept="losses.at.weight")
    assert restore(there / "at", 4).swept == "losses.at.weight"
    assert missing == []
    copy(there / "at", there / "at-seed0")
    networks, missing = restore_all(there, read_config(there), 4, 64)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert missing == ["at-seed0: left out, for at has the same method and seed"]


def test_what_is_missing_is_said(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    change(there / "config.json", methods=["scratch", "kd", "eskd"])
    for file in (there / "kd" / "checkpoints" / "16" / "default").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    change(there / "teacher" / "recipe.json", epochs=5)
    networks, missing = restore_all(there, read_config(there), 4, 64)
    assert [network.name for network in networks] == ["teacher"]
    sentences = dict(sentence.split(": ", 1) for sentence in missing)
    assert sentences.keys() == {"teacher_early", "scratch", "kd", "eskd", "teacher"}
    assert "has no checkpoint yet" in sentences["scratch"]
    assert "holds no complete checkpoint" in sentences["kd"]
    assert sentences["teacher"] == "trained for 16 of 40 steps so far"
    assert all(len(sentence.splitlines()) == 1 for sentence in missing)


def test_a_given_teacher_takes_the_place_of_a_trained_one(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    config = read_config(there)
    config.teacher.checkpoint = str(workdir / "teacher")
    assert phase_names(there, config) == ["kd"]
    networks, missing = restore_all(there, config, 4, 64)
    assert (networks[0].name, networks[0].step, networks[0].length) == ("teacher", 0, None)
    assert missing == []
    config.teacher.checkpoint = str(tmp_path / "nothing")
    networks, missing = restore_all(there, config, 4, 64)
    assert [network.name for network in networks] == ["kd"]
    assert len(missing) == 1
    assert "nothing does not exist" in missing[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "recipe.json").write_text("{"), "recipe.json is damaged"),
        (lambda folder: (folder / "recipe.json").write_text("{}"), "recipe.json is damaged"),
        (lambda folder: (folder / "recipe.json").write_bytes(b"\xff"), "recipe.json is damaged"),
        (lambda folder: change(folder / "recipe.json", augment=None), "recipe.json is damaged"),
        (lambda folder: change(folder / "recipe.json", share="all"), "recipe.json is damaged"),
        (lambda folder: change(folder / "recipe.json", model="resnet14"), "is no resnet14"),
        (lambda folder: (folder / "recipe.json").unlink(), "has no checkpoint yet"),
    ],
)
def test_damage(workdir, tmp_path, spoil, message):
    folder = copy(workdir / "kd", tmp_path / "kd")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        restore(folder, 4)


def test_other_classes(workdir):
    with pytest.raises(UserError, match="has 4 classes, the data set 5"):
        restore(workdir / "kd", 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is no folder"),
        (lambda path: path.mkdir(), "holds no config.json"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "is damaged"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("null")), "is damaged"),
        (lambda path: (path.mkdir(), (path / "config.json").write_bytes(b"\xff")), "is damaged"),
        (lambda path: (path / "config.json").mkdir(parents=True), "is damaged"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"epochs": "many"}')),
            "'epochs'",
        ),
    ],
)
def test_what_is_no_workdir(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "run")
