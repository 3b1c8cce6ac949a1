"""Training images without labels: what they change in the data, in the losses and in the plan."""

import dataclasses
import json
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource, unlabeled
from amdjax.data.unlabeled import add_unlabeled
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.losses import LOSSES, LossInputs, LossSpec, build_objective, cross_entropy, kd_loss
from amdjax.models import Outputs
from amdjax.training.header import header
from amdjax.training.inputs import Inputs
from amdjax.training.preflight_warnings import unlabeled_warnings
from amdjax.training.run import prepare, run
from tests.make_data import data_settings, encode, random_images
from tests.tiny_run import tiny_config


def _dataset():
    source = InMemorySource(random_images(6, 16, 16, 3, seed=9), np.arange(6, dtype=np.int32) % 3)
    return Dataset("random", ("a", "b", "c"), (16, 16, 3), source, source)


def _settings(folder, **changes):
    return data_settings("random", folder, unlabeled=str(folder), unlabeled_only=False, **changes)


@pytest.mark.parametrize("memory_gib", [0.0, 1.0])
def test_add_unlabeled_appends_the_images_of_a_folder(folder, memory_gib):
    dataset = _dataset()
    joined = add_unlabeled(dataset, _settings(folder, memory_gib=memory_gib))
    assert isinstance(joined.train, InMemorySource) == bool(memory_gib)
    assert (len(joined.train), len(joined.test)) == (11, 6)
    rows = np.array([7, 0, 10, 5])
    images, labels = joined.train.read(rows)
    assert labels.tolist() == [-1, 0, -1, 2]
    np.testing.assert_array_equal(images[[1, 3]], dataset.train.arrays()[0][[0, 5]])
    np.testing.assert_array_equal(images[0], random_images(16, 16, 3, seed=0))  # b.png after Z.png
    np.testing.assert_array_equal(images[2], random_images(16, 16, 3, seed=3))
    if not memory_gib:
        names = [name for name, _ in joined.train.entries(np.arange(6, 11))]
        assert names == ["Z.png", "b.png", "more/a.JPG", "more/c.png", "z.png"]
        assert joined.train.entries(rows)[1] == ("0", 0)


@pytest.mark.parametrize(
    ("images", "kept", "whole"),
    [(22, False, False), (23, True, False), (28, True, False), (29, True, True)],
)
def test_add_unlabeled_takes_the_memory_that_the_data_set_leaves(
    folder, monkeypatch, images, kept, whole
):
    # Six images for training, six for testing and six for validation; the folder has five.
    dataset = dataclasses.replace(_dataset(), validation=_dataset().train)
    decoded = []
    decode = unlabeled.decode_to_memory
    monkeypatch.setattr(
        unlabeled,
        "decode_to_memory",
        lambda *sources: decoded.append(decode(*sources)) or decoded[0],
    )
    joined = add_unlabeled(dataset, _settings(folder, memory_gib=images * 16 * 16 * 3 / 2**30))
    assert [len(source) for source in decoded] == [11 if whole else 5] * kept
    assert isinstance(joined.train, InMemorySource) == whole
    pixels, labels = joined.train.read(np.arange(11))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] + [-1] * 5
    np.testing.assert_array_equal(pixels[:6], dataset.train.arrays()[0])
    np.testing.assert_array_equal(pixels[7], random_images(16, 16, 3, seed=0))
    assert dataset.train.arrays()[1].tolist() == [0, 1, 2, 0, 1, 2]


def test_random_crops_of_unlabeled_images_are_not_those_of_the_labeled_ones(folder, monkeypatch):
    monkeypatch.setattr(unlabeled, "StreamedSource", _CropSeeds)
    dataset = dataclasses.replace(_dataset(), train=_CropSeeds())
    joined = add_unlabeled(dataset, _settings(folder, memory_gib=0.0)).train
    seeds = [joined.read(np.array([row]), (5, 1))[0][0] for row in range(11)]
    assert len({tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in seeds}) == 11


class _CropSeeds:
    """A source of six images, in place of which it returns the seeds of their random crops."""

    image_shape, has_random_crop = (16, 16, 3), True

    def __init__(self, *arguments):
        pass

    def __len__(self):
        return 6

    def read(self, indices, crop_seed=(0, 0)):
        seeds = np.empty(len(indices), object)
        seeds[:] = [(*crop_seed, int(index)) for index in indices]
        return seeds, np.zeros(len(indices), np.int32)


def test_add_unlabeled_changes_the_fingerprint(folder):
    dataset, data = _dataset(), _settings(folder)
    joined = add_unlabeled(dataset, data)
    assert joined.fingerprint.num_images == {"train": 11, "test": 6}
    data.unlabeled_only = True
    alone = add_unlabeled(dataset, data)
    assert (len(alone.train), alone.class_names) == (5, dataset.class_names)
    (folder / "b.png").rename(folder / "d.png")
    renamed = add_unlabeled(dataset, data)
    every = (dataset, joined, alone, renamed)
    assert len({one.digest for one in every}) == 4
    assert {one.fingerprint.of_labeled for one in every} == {dataset.digest}
    data.unlabeled = ""
    assert add_unlabeled(dataset, data) is dataset


def test_add_unlabeled_of_a_copy_in_another_normal_form_is_the_same(tmp_path):
    joined = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        root.mkdir()
        for seed, name in enumerate(("ez.png", "\u00e9t\u00e9.png", "zz.png")):
            path = root / unicodedata.normalize(form, name)
            path.write_bytes(encode(random_images(16, 16, 3, seed=seed)))
        joined.append(add_unlabeled(_dataset(), _settings(root)))
    one, other = joined
    assert one.digest == other.digest
    np.testing.assert_array_equal(one.train.arrays()[0], other.train.arrays()[0])


def test_unlabeled_warnings_names_folders_with_images_in_common(tmp_path):
    def warnings(folder: str, **values: object) -> list[str]:
        paths = {"folder": str(tmp_path / "images"), "unlabeled": str(tmp_path / folder)}
        data = default.get_config().data
        data.update({"name": "folder"} | paths | values)
        return unlabeled_warnings(data)

    for name in ("", "images", "images/test", "images/a"):
        (line,) = warnings(name)
        assert "have images in common" in line
    assert warnings("images/train") == []
    assert len(warnings("images/train", validation=0.1)) == 1
    assert warnings("images_2") == warnings("more", validation=0.1) == []
    assert warnings("images", name="cifar10") == []


def test_add_unlabeled_refuses_what_it_cannot_use(folder, tmp_path):
    data = _settings(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing is not a folder with images"):
        add_unlabeled(_dataset(), data)
    (folder / "wide.png").write_bytes(encode(random_images(16, 20, 3)))
    with pytest.raises(UserError, match=r"wide\.png\) is 16x20, not 16x16"):
        add_unlabeled(_dataset(), _settings(folder))
    (folder / "wide.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"wide\.png cannot be decoded .*; correct or remove"):
        add_unlabeled(_dataset(), _settings(folder))


def test_add_unlabeled_names_all_damaged_images_that_are_held_in_memory(folder):
    (folder / "more/c.png").write_bytes(b"")
    (folder / "z.png").write_bytes((folder / "z.png").read_bytes()[:100])
    (folder / "wide.png").write_bytes(encode(random_images(16, 20, 3)))
    data = _settings(folder)
    with pytest.raises(UserError) as caught:
        add_unlabeled(_dataset(), data)
    first, *lines = str(caught.value).splitlines()
    assert first == "2 images cannot be used; correct or remove such files:"
    assert [line.partition(" cannot be ")[0] for line in lines] == [
        f"  {folder}/{name}" for name in ("more/c.png", "z.png")
    ]
    data.memory_gib = 0.0  # read during training only
    assert len(add_unlabeled(_dataset(), data).train) == 12


def test_unlabeled_image_that_was_removed_is_named(folder):
    joined = add_unlabeled(_dataset(), _settings(folder, memory_gib=0.0))
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png cannot be read: ") as caught:
        joined.train.read(np.arange(6, 11))
    assert "prepared" not in str(caught.value)


def test_losses_of_labels_are_zero_for_images_without_labels():
    rng = np.random.default_rng(0)
    student, teacher = (
        Outputs(jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), {}, jnp.zeros((4, 2)))
        for _ in range(2)
    )
    terms = {"ce": {"weight": 1.0}, "kd": {}, "dkd": {}}
    objective = build_objective(terms, some_unlabeled=True)

    def parts(logits, labels):
        inputs = LossInputs(
            student.replace(logits=logits), teacher, jnp.asarray(labels), 0, lambda x: x
        )
        return objective.apply({"params": {}, "state": {}}, inputs)[1]

    mixed = parts(student.logits, [2, -1, 0, -1])
    labeled = cross_entropy(student.logits[::2], jnp.array([2, 0]))
    np.testing.assert_allclose(mixed["ce"], jnp.sum(labeled) / 4, rtol=1e-6)
    np.testing.assert_allclose(
        mixed["kd"], jnp.mean(kd_loss(student.logits, teacher.logits)), rtol=1e-6
    )
    gradient = jax.grad(lambda x: parts(x, [2, -1, 0, -1])["dkd"])(student.logits)
    assert not np.any(gradient[1::2])
    assert np.all(np.any(gradient[::2], axis=1))
    assert parts(student.logits, [-1] * 4)["ce"] == 0


def test_losses_of_labels_must_give_a_value_for_each_image(monkeypatch):
    names = ("student.logits", "labels")
    mean = LossSpec(lambda *arrays: jnp.mean(cross_entropy(*arrays)), inputs=names)
    monkeypatch.setitem(LOSSES, "mean_ce", mean)
    logits = jnp.zeros((4, 3))
    inputs = LossInputs(
        Outputs(logits, {}, logits), None, jnp.asarray([2, -1, 0, -1]), 0, lambda x: x
    )
    objective = build_objective({"mean_ce": {}}, some_unlabeled=True)
    with pytest.raises(UserError, match=r"mean_ce reads labels .* must return one value for each"):
        objective.apply({"params": {}, "state": {}}, inputs)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("scratch", {}, "scratch: every loss reads labels"),
        ("dkd", {}, "dkd: every loss reads labels"),
        ("kd+center", {}, r"kd\+center: center compares images by their labels"),
        ("kd+amc", {}, r"kd\+amc: amc compares images by their labels"),
        ("kd", {"mix.name": "mixup"}, "kd: ce reads labels, which cannot be mixed"),
    ],
)
def test_plan_runs_names_losses_that_need_labels(method, settings, message):
    config = default.get_config()
    config.methods, config.data.unlabeled = (method,), "photos"
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message):
        plan_runs(config)


def test_run_trains_the_teacher_on_labels_and_students_without(images, folder, tmp_path, capsys):
    config = tiny_config(images, ("kd+at",))
    config.data.unlabeled, config.data.unlabeled_only = str(folder), True
    config.batch_size, config.max_steps, config.losses.at.weight = 4, 2, 1.0
    run(config, tmp_path / "run")
    out, err = capsys.readouterr()
    assert "2 epochs of 16 steps (teacher) and 1 steps (students), batch 4" in out
    assert "students: 5 training images, with those of" in out
    assert "warning: 1 of 5 training images (20%) do not fill a batch of 4" in err
    assert "of 64 training images" not in err
    lines = (tmp_path / "run/kd+at/metrics.jsonl").read_text().splitlines()
    values = next(filter(lambda line: line["split"] == "train", map(json.loads, lines)))
    assert values["ce"] == 0
    assert values["kd"] > 0
    teacher, student = ((tmp_path / "run" / name / "run.json") for name in ("teacher", "kd+at"))
    assert '"train": 64' in teacher.read_text()
    assert '"train": 5' in student.read_text()
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match=r"the images have changed since .*kd\+at was started"):
        run(config, tmp_path / "run")


def test_prepare_checks_the_batches_of_the_teacher(images, folder, tmp_path):
    config = tiny_config(images, ("kd",))
    config.data.unlabeled, config.batch_size = str(folder), 68  # students have 69 images
    with pytest.raises(UserError, match="64 training images do not fill one batch of 68"):
        prepare(config, tmp_path / "run")


def test_run_checks_the_batches_of_the_students_before_the_teacher_is_trained(
    images, folder, tmp_path
):
    config = tiny_config(images, ("kd",))
    config.data.unlabeled, config.data.unlabeled_only = str(folder), True
    config.losses.ce.weight = 0.0
    with pytest.raises(UserError, match="5 training images do not fill one batch of 8"):
        run(config, tmp_path / "run")
    assert not list(tmp_path.glob("run/*/checkpoints"))


def test_header_has_the_steps_of_the_students_where_the_teacher_is_given(folder):
    dataset = _dataset()
    students = add_unlabeled(dataset, _settings(folder))
    config = default.get_config()
    config.methods, config.teacher.checkpoint, config.batch_size = ("kd",), "teacher", 8
    inputs = Inputs(
        dataset,
        students,
        [],
        teacher=None,
        teacher_outputs=None,
        teacher_outputs_accuracy=None,
        initial=None,
    )
    text = header(config, plan_runs(config), inputs, 1)
    assert (
        "6 training and 6 test images of 16x16 in 3 classes; 200 epochs of 1 steps, batch 8" in text
    )
