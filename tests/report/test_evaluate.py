"""Evaluation of a small run, compared with direct computations."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from amdjax.analysis import grad_cam, map_angles, map_cosine
from amdjax.checkpoint_files import checkpoint_digest
from amdjax.data import EvalBatches, load_dataset
from amdjax.errors import UserError
from amdjax.losses import am_loss
from amdjax.report import evaluate, selection
from amdjax.report.cost import Cost
from amdjax.report.evaluate import disagreement, evaluate_workdir
from amdjax.report.outputs import LAYERS
from amdjax.report.report_data import ModelResult, ReportData
from amdjax.trained import restore, restore_all
from amdjax.workdir import read_config, write_config
from amdjax.workdir_lock import WorkdirLock
from tests.trained_run import add_student, change, change_run, copy


@pytest.fixture(scope="module")
def workdir(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher and two students, one of them trained without the teacher."""
    workdir = copy(trained, tmp_path_factory.mktemp("evaluate") / "run")
    add_student(workdir, "cosface", losses={"cosface": {}}, seed=3)
    return workdir


@pytest.fixture(scope="module")
def report(workdir: Path) -> ReportData:
    return evaluate_workdir(workdir)


def _result(report: ReportData, name: str) -> ModelResult:
    (network,) = [network for network in report.networks if network.name == name]
    return network


def test_evaluate_workdir_covers_the_whole_test_split(workdir, report):
    data = load_dataset(read_config(workdir).data)
    images, labels = data.test.read(np.arange(len(data.test)))
    assert [network.name for network in report.networks] == ["teacher", "kd", "cosface"]
    assert (report.data, report.class_names, report.notes) == ("folder", data.class_names, ())
    assert report.unknown == "" and not any(network.open_set for network in report.networks)
    np.testing.assert_array_equal(report.labels, labels)
    np.testing.assert_array_equal(report.images, images[report.samples])
    for network in report.networks:
        restored = restore(workdir / network.name, data.num_classes)
        outputs = restored.predictor(restored.variables, images)
        np.testing.assert_allclose(network.logits, outputs.logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(network.embedding, outputs.embedding, rtol=1e-4, atol=1e-5)
        assert (network.step, network.model) == (16, restored.model)
        assert network.parameters == sum(
            x.size for x in jax.tree.leaves(restored.variables["params"])
        )


def test_report_has_the_config_of_the_last_command(workdir, report):
    assert report.config == read_config(workdir).to_dict()


def test_networks_of_other_images_or_crops_are_skipped(workdir):
    dataset = load_dataset(read_config(workdir).data)
    network = restore(workdir / "kd")
    data = dataclasses.replace(network.data, image_shape=(24, 16, 3))
    other = dataclasses.replace(network, name="at", data=data)
    settings = {"data": {"random_resized_crop": True}}
    cropped = dataclasses.replace(network, name="sp", settings=settings)
    networks = [network, other, cropped]
    kept, skipped = selection.drop_other_inputs(networks, dataset, imagenet_crop=False)
    assert [one.name for one in kept] == ["kd"]
    assert "at: skipped: it was trained on images of 24x16, and those of this" in skipped[0]
    assert "sp: skipped: it was trained with config.data.random_resized_crop=True" in skipped[1]


def test_students_of_other_settings_are_not_compared(workdir):
    network = restore(workdir / "kd")
    settings = {**network.settings, "epochs": 5}
    others = [
        dataclasses.replace(network, method="at"),
        dataclasses.replace(network, method="sp", settings=settings),
        dataclasses.replace(network, method="ft", step=8),
    ]
    different = selection.find_not_compared([network, *others], workdir, max_steps=16)
    unfinished = "its training is not finished"
    assert different == {"sp": {0: "epochs: 5, kd 2"}, "ft": {0: unfinished}}
    # The others are not compared with a run of the baseline that is not finished.
    first = dataclasses.replace(network, seed=7, step=8)
    for networks in ([first, network, others[0]], [first, network]):
        different = selection.find_not_compared(networks, workdir, max_steps=16)
        assert different == {"kd": {7: unfinished}}
    assert selection.find_not_compared([first], workdir, max_steps=16) == {}


def test_seeds_with_other_settings_of_their_method_are_not_averaged(workdir):
    network = restore(workdir / "kd")
    other = {**network.settings["losses"]["kd"], "temperature": 9.0}
    settings = {**network.settings, "losses": {**network.settings["losses"], "kd": other}}
    seeds = [dataclasses.replace(network, seed=seed) for seed in (0, 1)]
    changed = dataclasses.replace(network, seed=2, settings=settings)
    other_method = dataclasses.replace(changed, method="at", seed=0)
    different = selection.find_not_compared([*seeds, changed, other_method], workdir, max_steps=0)
    temperature = network.settings["losses"]["kd"]["temperature"]
    assert different == {"kd": {2: f"losses.kd.temperature: 9.0, kd {temperature}"}}


def test_seeds_that_are_not_compared_are_left_out_if_their_method_has_others(workdir):
    network = restore(workdir / "kd")
    networks = [
        dataclasses.replace(network, method=method, seed=seed)
        for method, seed in (("kd", 0), ("kd", 1), ("at", 0), ("at", 1))
    ]
    different = {"kd": {1: "epochs: 5, kd 2"}, "at": {0: "unfinished", 1: "unfinished"}}
    shown, notes = selection.drop_incomparable(networks, different)
    assert shown == [networks[0], *networks[2:]]
    assert notes == [
        "kd: seed 1 is left out (epochs: 5, kd 2)",
        "at: seed 0 is left out of the tests (unfinished)",
        "at: seed 1 is left out of the tests (unfinished)",
    ]


def test_student_of_the_trained_teacher_is_compared_with_those_that_trained_it(workdir):
    network = restore(workdir / "kd")
    path = workdir / "teacher"
    digest = checkpoint_digest(path / "checkpoints/16")
    given = {"source": str(path), "step": 16, "digest": digest}
    teacher = {"name": "wrn_10_1", "seed": 5, "checkpoint": str(path)}
    settings = {**network.settings, "teacher": teacher}
    later = dataclasses.replace(
        network, method="at", settings=settings, teacher_checkpoints=(given,)
    )
    assert selection.find_not_compared([network, later], workdir, max_steps=0) == {}
    other = dataclasses.replace(later, teacher_checkpoints=({**given, "digest": "00000000"},))
    different = selection.find_not_compared([network, other], workdir, max_steps=0)
    (difference,) = different["at"].values()
    assert f"teacher.digest: '00000000', kd '{digest}'" in difference


@pytest.fixture(scope="module")
def switched(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir whose last command gives a teacher, from which a later student learned."""
    switched = copy(workdir, tmp_path_factory.mktemp("switched") / "run")
    given = str(workdir / "kd")
    config = read_config(switched)
    config.teacher.checkpoint, config.teacher.name = given, "resnet8"
    write_config(config, switched)
    settings = restore(switched / "kd").settings
    teacher = {"name": "resnet8", "seed": 7, "checkpoint": given}
    add_student(switched, "at", teacher=teacher)
    checkpoint = {
        "source": given,
        "step": 16,
        "digest": checkpoint_digest(workdir / "kd/checkpoints/16"),
    }
    change_run(switched / "at", given_teacher=[checkpoint])
    add_student(switched, "kd-seed1", method="kd", seed=1, epochs=5)
    add_student(switched, "scratch")
    change_run(switched / "scratch", settings={k: v for k, v in settings.items() if k != "teacher"})
    return switched


def test_students_of_another_teacher_are_not_compared_with_it(switched):
    report = evaluate_workdir(switched)
    compared = {one.name for one in report.networks if one.similarity and one.am_distance}
    assert compared == {"at", "scratch"}
    assert {one.name for one in report.networks} == {"teacher", "kd", "cosface", *compared}
    assert "kd: seed 1 is left out (its training is not finished)" in report.notes
    for name in ("kd", "cosface"):
        (note,) = (note for note in report.notes if note.startswith(f"{name}: the attention maps"))
        assert "since it learned from another teacher than that of the workdir's last" in note
    np.testing.assert_allclose(_result(report, "scratch").similarity["stage1"], 1.0, rtol=1e-5)


def test_parameters_of_a_result_are_those_that_predict(workdir, monkeypatch):
    network = restore(workdir / "kd")
    losses = {
        "params": {"head": {"kernel": np.zeros(3)}},
        "state": {"head": {"bias": np.zeros(2), "mean": np.zeros(7)}},
    }
    larger = dataclasses.replace(network, variables={**network.variables, "losses": losses})
    monkeypatch.setattr(evaluate, "_maps_and_cams", lambda *_: ({}, {}))
    outputs = {"logits": None, "embedding": None, "similarity": {}, "am": {}}
    alone, with_losses = (
        evaluate._model_result(
            model, outputs, (), np.zeros(0), Cost(0.0, 0.0), workdir, {}
        ).parameters
        for model in (network, larger)
    )
    assert with_losses == alone + 5


def test_evaluate_workdir_compares_students_with_the_teacher(workdir, report):
    data = load_dataset(read_config(workdir).data)
    images, _ = data.test.read(np.arange(len(data.test)))
    student, teacher = (
        network.predictor(network.variables, images).features
        for network in (restore(workdir / name, 4) for name in ("kd", "teacher"))
    )
    result = _result(report, "kd")
    for layer in LAYERS:
        pair = student[layer], teacher[layer]
        np.testing.assert_allclose(result.similarity[layer], map_cosine(*pair), rtol=1e-4)
        np.testing.assert_allclose(result.am_distance[layer], am_loss(*pair).mean(), rtol=1e-3)
        np.testing.assert_allclose(result.angles[layer], map_angles(student[layer]), rtol=1e-4)
    assert _result(report, "teacher").similarity == _result(report, "teacher").am_distance == {}
    assert _result(report, "cosface").similarity.keys() == set(LAYERS)


def test_evaluate_workdir_computes_maps_and_cams_of_the_samples(workdir, report):
    result, restored = _result(report, "cosface"), restore(workdir / "cosface", 4)
    for layer in LAYERS:
        norms = np.linalg.norm(result.maps[layer].reshape(len(report.samples), -1), axis=1)
        np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    cam = grad_cam(
        restored.predictor.network,
        restored.variables,
        restored.predictor.normalize(report.images),
        result.logits[report.samples].argmax(1),
        "stage3",
        restored.predictor.rule.predict,
    )
    np.testing.assert_allclose(result.cams["stage3"], cam, rtol=1e-3, atol=1e-6)


def test_samples_are_the_images_with_the_largest_disagreement(report):
    values = disagreement([network.logits for network in report.networks])
    assert len(report.samples) == 6 and report.by_disagreement
    assert values[report.samples].min() >= np.delete(values, report.samples).max()
    assert (np.diff(values[report.samples]) <= 0).all()


def test_flops_are_those_of_the_convolutions(report):
    result = _result(report, "kd")
    # ResNet-8 at 16x16: the stem and three stages of two convolutions, two of them with shortcut.
    convolutions = [(9, 3, 16, 16), (9, 16, 16, 16), (9, 16, 16, 16)]
    for inputs, outputs, side in ((16, 32, 8), (32, 64, 4)):
        convolutions += [
            (9, inputs, outputs, side),
            (9, outputs, outputs, side),
            (1, inputs, outputs, side),
        ]
    flops = sum(
        2 * taps * inputs * outputs * side**2 for taps, inputs, outputs, side in convolutions
    )
    assert 0.8 * flops < result.flops < 1.02 * flops  # XLA does not count padding
    assert result.images_per_s > 0


def test_batches_of_many_devices_are_not_evaluated_on_one(workdir, report, tmp_path, monkeypatch):
    sizes = []

    class Batches(EvalBatches):
        def __init__(self, source, batch_size):
            sizes.append(batch_size)
            super().__init__(source, batch_size)

    for module in ("evaluate", "outputs"):
        monkeypatch.setattr(f"amdjax.report.{module}.EvalBatches", Batches)
    changed = copy(workdir, tmp_path / "run")
    change(changed / "config.json", batch_size=4096)
    logits = _result(evaluate_workdir(changed), "kd").logits
    np.testing.assert_allclose(logits, _result(report, "kd").logits, rtol=1e-4, atol=1e-5)
    assert set(sizes) == {128}


def test_curves_skip_incomplete_lines(workdir, report, tmp_path):
    curve = _result(report, "kd").curve
    assert [line["step"] for line in curve if line["split"] == "test"] == [8, 16]
    changed = copy(workdir, tmp_path / "run")
    with (changed / "kd" / "metrics.jsonl").open("ab") as file:
        file.write(b'3\n{"step": 8}\n\xff\n{"split": "tr')
    assert _result(evaluate_workdir(changed), "kd").curve == curve


def test_indices_choose_the_samples(workdir):
    with WorkdirLock(workdir):  # of a command that is running
        report = evaluate_workdir(workdir, indices=(7, 2, 30, 0, 1, 5))
    assert report.samples.tolist() == [7, 2, 30, 0, 1, 5]
    assert not report.by_disagreement
    assert report.networks[0].maps["stage1"].shape[0] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": (32,)}, "indices of the test images are 0 to 31"),
        ({"indices": (-1,)}, "indices of the test images are 0 to 31"),
        ({"indices": ()}, "indices of the test images are 0 to 31"),
        ({"indices": (10**20,)}, "indices of the test images are 0 to 31"),
        ({"indices": (5, 5)}, "duplicates"),
        ({"unknown": "nodata"}, "^--unknown='nodata' is neither another data set"),
    ],
)
def test_evaluate_workdir_rejects_bad_arguments(workdir, arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate_workdir(workdir, **arguments)


def test_networks_with_nan_outputs_are_skipped(workdir, monkeypatch):
    def evaluate_with_nan(*names: str) -> ReportData:
        def restore_with_nan(*arguments):
            networks, notes = restore_all(*arguments)
            return [
                dataclasses.replace(
                    one, variables=jax.tree.map(lambda x: x * np.float32(np.nan), one.variables)
                )
                if one.name in names
                else one
                for one in networks
            ], notes

        monkeypatch.setattr(evaluate, "restore_all", restore_with_nan)
        return evaluate_workdir(workdir)

    report = evaluate_with_nan("teacher", "cosface")
    assert [network.name for network in report.networks] == ["kd"]
    assert report.networks[0].similarity == report.networks[0].am_distance == {}
    assert report.notes[:2] == tuple(
        f"{name}: skipped: its outputs contain NaN or Inf" for name in ("teacher", "cosface")
    )
    assert evaluate_with_nan("teacher", "kd", "cosface").networks == ()


def test_students_without_a_teacher_are_not_compared(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    shutil.rmtree(changed / "teacher")
    report = evaluate_workdir(changed)
    assert [network.name for network in report.networks] == ["kd", "cosface"]
    assert all(network.similarity == {} for network in report.networks)
    assert any("there is no teacher" in note for note in report.notes)
    assert any(note.startswith("teacher: ") for note in report.notes)


def test_workdir_without_checkpoints_needs_no_data(workdir, tmp_path):
    (tmp_path / "run").mkdir()
    config = read_config(workdir)
    config.data.folder = str(tmp_path / "missing")
    write_config(config, tmp_path / "run")
    report = evaluate_workdir(tmp_path / "run")
    assert (report.networks, report.class_names) == ((), ())
    assert "no network has a checkpoint yet" in report.notes[0]
    for array in (report.labels, report.samples, report.images):
        assert len(array) == 0


def test_evaluate_workdir_names_missing_data(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    data = read_config(changed).data.to_dict()
    change(changed / "config.json", data={**data, "folder": str(tmp_path / "missing")})
    with pytest.raises(UserError, match=rf"images are no longer in {tmp_path}/missing"):
        evaluate_workdir(changed)


def test_disagreement_is_the_mean_total_variation_distance():
    confident, uniform = np.array([[50.0, 0.0], [0.0, 50.0]]), np.zeros((2, 2))
    np.testing.assert_allclose(disagreement([confident, confident]), 0.0, atol=1e-12)
    np.testing.assert_allclose(disagreement([confident, confident[::-1]]), 0.5)
    np.testing.assert_allclose(disagreement([confident, uniform]), 0.25)
    # Two networks predict one class and one the other: the mean is (2/3, 1/3).
    np.testing.assert_allclose(
        disagreement([confident, confident[::-1], confident]), (1 / 3 + 2 / 3 + 1 / 3) / 3
    )
    rng = np.random.default_rng(0)
    logits = list(rng.normal(size=[3, 20, 4]))
    np.testing.assert_allclose(disagreement(logits), disagreement(logits[::-1]))
    np.testing.assert_allclose(disagreement(logits), disagreement([x + 3.0 for x in logits]))
