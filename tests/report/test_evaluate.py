"""What is found out about the networks of a small run, asked in other ways."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import amdjax.report.evaluate as collect_module
from amdjax.analysis import grad_cam, map_angles, map_cosine
from amdjax.config import read_config, write_config
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.losses import am_loss
from amdjax.report.evaluate import LAYERS, collect, compare_maps, disagreement
from amdjax.workdir import restore, restore_all
from tests.trained_run import add_student, change, copy, trained


@pytest.fixture(scope="module")
def workdir(images, tmp_path_factory):
    """A run with a teacher and two students, of which one never saw it."""
    there = copy(trained(images), tmp_path_factory.mktemp("collect") / "run")
    add_student(there, "cosface", losses={"cosface": {}}, seed=3)
    return there


@pytest.fixture(scope="module")
def study(workdir):
    return collect(workdir, num_shown=5)


def _network(study, name):
    (network,) = [network for network in study.networks if network.name == name]
    return network


def test_the_whole_test_split_is_asked(workdir, study):
    data = load_dataset(read_config(workdir).data)
    images, labels = data.test.read(np.arange(len(data.test)))
    assert [network.name for network in study.networks] == ["teacher", "kd", "cosface"]
    assert (study.data, study.class_names, study.missing) == ("folder", data.class_names, ())
    np.testing.assert_array_equal(study.labels, labels)
    np.testing.assert_array_equal(study.images, images[study.shown])
    for network in study.networks:
        restored = restore(workdir / network.name, data.num_classes)
        outputs = restored.kind(restored.variables, images)
        np.testing.assert_allclose(network.logits, outputs.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network.embedding, outputs.embedding, rtol=1e-4, atol=1e-5)
        assert (network.step, network.model) == (16, restored.model)
        assert network.parameters == sum(
            x.size for x in jax.tree.leaves(restored.variables["params"])
        )


def test_students_are_compared_with_the_teacher(workdir, study):
    data = load_dataset(read_config(workdir).data)
    images, _ = data.test.read(np.arange(len(data.test)))
    student, teacher = (
        network.kind(network.variables, images).features
        for network in (restore(workdir / name, 4) for name in ("kd", "teacher"))
    )
    network = _network(study, "kd")
    for layer in LAYERS:
        pair = student[layer], teacher[layer]
        np.testing.assert_allclose(network.similarity[layer], map_cosine(*pair), rtol=1e-4)
        np.testing.assert_allclose(network.am_distance[layer], am_loss(*pair).mean(), rtol=1e-3)
        np.testing.assert_allclose(network.angles[layer], map_angles(student[layer]), rtol=1e-4)
    assert _network(study, "teacher").similarity == _network(study, "teacher").am_distance == {}
    assert _network(study, "cosface").similarity.keys() == set(LAYERS)


def test_what_is_shown(workdir, study):
    network, restored = _network(study, "cosface"), restore(workdir / "cosface", 4)
    for layer in LAYERS:
        norms = np.linalg.norm(network.maps[layer].reshape(5, -1), axis=1)
        np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
        cam = grad_cam(
            restored.kind.module,
            restored.variables,
            restored.kind.normalize(study.images),
            network.logits[study.shown].argmax(1),
            layer,
            restored.kind.predict,
        )
        np.testing.assert_allclose(network.cams[layer], cam, rtol=1e-3, atol=1e-6)
    disputed = disagreement([network.logits for network in study.networks])
    assert disputed[study.shown].min() >= np.delete(disputed, study.shown).max()
    assert (np.diff(disputed[study.shown]) <= 0).all()


def test_cost_is_that_of_the_architecture(study):
    network = _network(study, "kd")
    # ResNet-8 at 16x16: the stem, and three stages of two convolutions, two of them with shortcut.
    convolutions = [(9, 3, 16, 16), (9, 16, 16, 16), (9, 16, 16, 16)]
    for inputs, outputs, side in ((16, 32, 8), (32, 64, 4)):
        convolutions += [
            (9, inputs, outputs, side),
            (9, outputs, outputs, side),
            (1, inputs, outputs, side),
        ]
    flops = sum(
        2 * record * inputs * outputs * side**2 for record, inputs, outputs, side in convolutions
    )
    assert 0.8 * flops < network.flops < 1.02 * flops  # XLA leaves out what falls on the padding
    assert network.images_per_s > 0


def test_curves_leave_out_what_was_cut_off(workdir, study, tmp_path):
    curve = _network(study, "kd").curve
    assert [line["step"] for line in curve if line["split"] == "test"] == [8, 16]
    there = copy(workdir, tmp_path / "run")
    with (there / "kd" / "metrics.jsonl").open("ab") as file:
        file.write(b'3\n{"step": 8}\n\xff\n{"split": "tr')
    assert _network(collect(there, num_shown=5), "kd").curve == curve


def test_chosen_images(workdir):
    study = collect(workdir, indices=(7, 2))
    assert study.shown.tolist() == [7, 2]
    assert study.networks[0].maps["stage1"].shape[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": (32,)}, "numbered 0 to 31"),
        ({"indices": (-1,)}, "numbered 0 to 31"),
        ({"indices": ()}, "numbered 0 to 31"),
        ({"indices": (10**20,)}, "numbered 0 to 31"),
        ({"indices": (5, 5)}, "twice"),
        ({"num_shown": 0}, "at least 1, not 0"),
    ],
)
def test_images_that_are_not_there(workdir, arguments, message):
    with pytest.raises(UserError, match=message):
        collect(workdir, **arguments)


def test_networks_that_put_out_no_numbers_are_left_out(workdir, monkeypatch):
    def spoil(*bad):
        def spoiled(*arguments):
            networks, missing = restore_all(*arguments)
            return [
                dataclasses.replace(
                    one, variables=jax.tree.map(lambda x: x * np.float32(np.nan), one.variables)
                )
                if one.name in bad
                else one
                for one in networks
            ], missing

        monkeypatch.setattr(collect_module, "restore_all", spoiled)
        return collect(workdir)

    study = spoil("teacher", "cosface")
    assert [network.name for network in study.networks] == ["kd"]
    assert study.networks[0].similarity == study.networks[0].am_distance == {}
    assert study.missing[:2] == tuple(
        f"{name}: left out, for what it puts out is not finite" for name in ("teacher", "cosface")
    )
    assert spoil("teacher", "kd", "cosface").networks == ()


def test_without_a_teacher_nothing_is_compared(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    shutil.rmtree(there / "teacher")
    study = collect(there)
    assert [network.name for network in study.networks] == ["kd", "cosface"]
    assert all(network.similarity == {} for network in study.networks)
    assert any("there is no teacher" in sentence for sentence in study.missing)
    assert any(sentence.startswith("teacher: ") for sentence in study.missing)


def test_a_workdir_without_checkpoints_needs_no_data(workdir, tmp_path):
    (tmp_path / "run").mkdir()
    config = read_config(workdir)
    config.data.folder = str(tmp_path / "nothing")
    write_config(config, tmp_path / "run")
    study = collect(tmp_path / "run")
    assert (study.networks, study.class_names) == ((), ())
    assert "no network has a checkpoint yet" in study.missing[0]
    for array in (study.labels, study.shown, study.images):
        assert len(array) == 0


def test_data_that_are_not_there_are_named(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    data = read_config(there).data.to_dict()
    change(there / "config.json", data={**data, "folder": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match="nothing cannot be listed"):
        collect(there)


def test_disagreement():
    sure, unsure = np.array([[50.0, 0.0], [0.0, 50.0]]), np.zeros((2, 2))
    np.testing.assert_allclose(disagreement([sure, sure]), 0.0, atol=1e-12)
    np.testing.assert_allclose(disagreement([sure, sure[::-1]]), 0.5)
    np.testing.assert_allclose(disagreement([sure, unsure]), 0.25)
    # Two of one opinion and one of the other: the mean is (2/3, 1/3).
    np.testing.assert_allclose(disagreement([sure, sure[::-1], sure]), (1 / 3 + 2 / 3 + 1 / 3) / 3)
    rng = np.random.default_rng(0)
    logits = list(rng.normal(size=[3, 20, 4]))
    np.testing.assert_allclose(disagreement(logits), disagreement(logits[::-1]))
    np.testing.assert_allclose(disagreement(logits), disagreement([x + 3.0 for x in logits]))


def test_maps_whose_sizes_do_not_fit_are_left_out():
    rng = np.random.default_rng(0)
    large, small, odd = (rng.normal(size=[2, side, side, 3]) for side in (8, 4, 6))
    answer = compare_maps({"a": large, "b": large}, {"a": small, "b": odd}, 1.35, 64.0)
    assert answer["similarity"].keys() == answer["am"].keys() == {"a"}
    np.testing.assert_allclose(answer["similarity"]["a"], map_cosine(large, small), rtol=1e-5)
    assert compare_maps({"a": large}, {}, 1.35, 64.0) == {"similarity": {}, "am": {}}
