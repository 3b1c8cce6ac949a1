"""Files of a teacher's outputs: written from any function, checked, and learned from."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.configs import default
from amdjax.data import Dataset, InMemorySource
from amdjax.errors import UserError
from amdjax.experiment import RunSpec, plan_runs
from amdjax.losses import build_objective
from amdjax.losses.functional import attention_map
from amdjax.models import init_variables
from amdjax.predictor import create_predictor
from amdjax.teacher_outputs.accuracy import low_accuracy_warnings
from amdjax.teacher_outputs.compute import compute_outputs, load_teacher_function, to_arrays
from amdjax.teacher_outputs.stored import open_outputs
from amdjax.teacher_outputs.write import write_outputs
from amdjax.training.preflight import check_settings
from amdjax.training.run import run
from amdjax.training.teacher_cache import cache_teacher_outputs
from amdjax.training.trainer import build_trainer
from tests.make_data import random_images
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


def _dataset(count=12, classes=4, **changes):
    images = random_images(count, 16, 16, 3)
    source = InMemorySource(images, np.arange(count, dtype=np.int32) % classes)
    names = tuple("abcdefgh"[:classes])
    return dataclasses.replace(Dataset("random", names, (16, 16, 3), source, source), **changes)


def _arrays(count=12, views=None, classes=4):
    rng = np.random.default_rng(1)
    middle = () if views is None else (views,)
    return {
        "logits": rng.normal(size=(count, *middle, classes)).astype(np.float32),
        "embedding": rng.normal(size=(count, *middle, 5)).astype(np.float32),
        "attention_stage1": rng.uniform(size=(count, *middle, 4, 4)).astype(np.float32),
    }


def _save(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    return open_outputs(str(path))


def test_to_arrays_accepts_every_form_of_outputs():
    rng = np.random.default_rng(0)
    logits, embedding = rng.normal(size=(2, 4)), rng.normal(size=(2, 7)).tolist()
    feature = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
    alone = to_arrays(logits, 2, 4)
    assert list(alone) == ["logits"]
    assert alone["logits"].dtype == np.float32
    pair = to_arrays((logits, embedding), 2, 4)
    assert list(pair) == ["logits", "embedding"]
    features = {"stage1": feature, "stage2": feature[..., 0] ** 2}
    arrays = to_arrays({"features": features, "logits": logits, "embedding": None}, 2, 4)
    assert list(arrays) == ["logits", "attention_stage1", "attention_stage2"]
    np.testing.assert_allclose(arrays["attention_stage1"], attention_map(feature), rtol=1e-6)
    np.testing.assert_array_equal(arrays["attention_stage2"], feature[..., 0] ** 2)


def test_compute_outputs_copies_an_array_that_the_teacher_writes_to_again():
    dataset, buffer = _dataset(6), np.zeros((6, 4), np.float32)

    def teach(images):
        buffer[:] = images[:, 0, :4, 0]
        return buffer

    (batch,) = compute_outputs(
        teach, dataset.train, 4, batch_size=6, mirrored=True, description="images"
    )
    images, _ = dataset.train.read(np.arange(6))
    np.testing.assert_array_equal(batch["logits"][:, 0], images[:, 0, :4, 0])
    np.testing.assert_array_equal(batch["logits"][:, 1], images[:, 0, :-5:-1, 0])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.zeros((2, 5)), r"logits are \[2, 5\], not \[2,4\]: the teacher must have the classes"),
        (np.zeros((3, 4)), r"logits are \[3, 4\], not \[2,4\]"),
        ({"logit": np.zeros((2, 4))}, "unknown output of the teacher 'logit'; did you mean logits"),
        ((None, np.zeros((2, 4))), "returned no logits"),
        ((np.zeros((2, 4)),) * 4, "returned 4 values"),
        ((np.zeros((2, 4)), np.zeros(2)), r"embedding are \[2\], not \[2,D\]"),
        ((np.zeros((2, 4)), None, [1]), "features are a list"),
        ((np.zeros((2, 4)), None, {"a": np.zeros((2, 3))}), r"feature 'a' are \[2, 3\]"),
        ([["a"], ["b"]], "logits are not an array of numbers"),
        ((np.zeros((2, 4)), None, {"a/b": np.zeros((2, 3, 3))}), "feature 'a/b' has a '/' in its"),
    ],
)
def test_to_arrays_refuses_other_outputs(returned, message):
    with pytest.raises(UserError, match=message):
        to_arrays(returned, 2, 4)


def test_compute_outputs_pads_mirrors_and_keeps_the_order():
    dataset, shapes = _dataset(12), []

    def teach(images):
        shapes.append(images.shape)
        return images[:, 0, :4, 0]  # the left corner: of the mirror image the right one

    batches = list(
        compute_outputs(teach, dataset.train, 4, batch_size=5, mirrored=True, description="images")
    )
    assert shapes == [(5, 16, 16, 3)] * 6
    assert [len(batch["logits"]) for batch in batches] == [5, 5, 2]
    logits = np.concatenate([batch["logits"] for batch in batches])
    images, labels = dataset.train.arrays()
    np.testing.assert_array_equal(logits[:, 0], images[:, 0, :4, 0])
    np.testing.assert_array_equal(logits[:, 1], images[:, 0, -1:-5:-1, 0])
    np.testing.assert_array_equal(np.concatenate([batch["labels"] for batch in batches]), labels)


def test_compute_outputs_names_the_image_whose_outputs_are_not_finite():
    def teach(images):
        logits = np.zeros((len(images), 4))
        logits[1, 2] = np.nan
        return logits

    outputs = compute_outputs(
        teach, _dataset().train, 4, batch_size=4, mirrored=False, description="images"
    )
    with pytest.raises(UserError, match="logits of image 1 contain NaN"):
        list(outputs)


@pytest.mark.parametrize(
    ("wrong_call", "change", "message"),
    [
        (1, {"embedding": None}, r"embedding is \[B,3\] .* the mirror image of image 0"),
        (2, {"embedding": None}, r"embedding is \[B,3\] for image 0 and missing for image 5"),
        (2, {"embedding": np.ones((5, 1))}, r"embedding is \[B,3\] for .* \[B,1\] for image 5"),
        (3, {"features": {"a": np.ones((5, 2, 2))}}, r"attention_a is missing .* \[B,2,2\] for"),
    ],
)
def test_compute_outputs_refuses_arrays_of_some_images_only(wrong_call, change, message):
    calls = iter(range(6))

    def teach(images):
        returned = {"logits": np.zeros((5, 4)), "embedding": np.ones((5, 3))}
        return {**returned, **change} if next(calls) == wrong_call else returned

    outputs = compute_outputs(
        teach, _dataset().train, 4, batch_size=5, mirrored=True, description="images"
    )
    with pytest.raises(UserError, match=f"the same arrays for all images, but its {message}"):
        list(outputs)


@pytest.mark.parametrize("name", ["outputs.npz", "outputs"])
def test_write_outputs_gives_the_rows_that_a_teacher_cache_has(name, tmp_path):
    """The outputs of a network of amdjax, once as a file and once as the cache computes them."""
    config = default.get_config()
    config.teacher.name, config.batch_size, config.augment.flip = "wrn_10_1", 4, True
    spec = RunSpec(
        name="x", method="x", model="resnet8", seed=0, teacher="teacher",
        losses={"kd": {}, "at": {"features": ("stage1", "stage3")}, "rkd": {}},
    )  # fmt: skip
    mesh = distributed.make_mesh(jax.devices()[:1])
    dataset = _dataset(10)
    trainer = build_trainer(config, spec, dataset, mesh)
    variables = init_variables(trainer.teacher, jax.random.key(0), dataset.image_shape)
    cache = cache_teacher_outputs(trainer, distributed.replicate(variables, mesh))
    predictor = create_predictor(trainer.teacher, config.augment, {})
    forward = jax.jit(lambda images: predictor(variables, images))

    def teach(images):
        outputs = forward(images)
        features = {layer: outputs.features[layer] for layer in ("stage1", "stage3")}
        return outputs.logits, outputs.embedding, features

    batches = compute_outputs(
        teach, dataset.train, 4, batch_size=4, mirrored=True, description="images"
    )
    write_outputs(tmp_path / name, batches, dataset, config.data)
    stored = open_outputs(str(tmp_path / name))
    accuracy = stored.check_rows(dataset, config.data)
    labels = dataset.train.arrays()[1]
    assert accuracy == np.mean(np.argmax(cache.logits[:, 0], axis=-1) == labels)
    rows = np.array([7, 0, 9])
    taken, expected = (jax.tree.map(lambda x: x[rows], x) for x in (stored.rows(2), cache))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), taken, expected)
    whole = jax.tree.map(np.asarray, stored.rows(1))
    assert whole.features["stage3"].shape == (10, 1, 4, 4, 1)
    assert whole.logits.dtype == np.float32
    assert stored.rows(2).features["stage3"].nbytes == 2 * whole.features["stage3"].nbytes
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_open_outputs_reads_npz_and_folders_alike(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in _arrays().items()}
    archive, folder = _save(tmp_path / "a.npz", arrays), _save(tmp_path / "b", arrays)
    assert isinstance(folder.arrays["logits"], np.memmap)
    assert archive.digest == folder.digest
    for name, one in (("logits", archive.rows(1).logits), ("embedding", folder.rows(1).embedding)):
        assert one[:3].dtype == np.float32
        np.testing.assert_allclose(one[:3, 0], arrays[name][:3], rtol=1e-3)
    maps = folder.rows(1).features["stage1"][np.array([4])]
    np.testing.assert_allclose(maps[0, 0, ..., 0] ** 2, arrays["attention_stage1"][4], rtol=1e-5)
    arrays["logits"][5, 1] += 1
    assert _save(tmp_path / "c.npz", arrays).digest != archive.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("logits"), "no array 'logits'; it has embedding, attention_"),
        (lambda arrays: arrays["logits"].__setitem__((3, 1), np.nan), "'logits' has NaN or Inf in"),
        (lambda arrays: arrays["embedding"].__setitem__((3, 1), np.inf), "in row 3"),
        (
            lambda arrays: arrays["attention_stage1"].__setitem__((2, 1), -1),
            "a negative value in an attention map in row 2",
        ),
        (
            lambda arrays: arrays.update(logits=np.zeros((12, 4), np.int64)),
            "'logits' is int64, but must be float16, float32, float64",
        ),
        (
            lambda arrays: arrays.update(logits=np.zeros((12, 3, 4))),
            r"'logits' is \[12, 3, 4\], but must be|'embedding' is \[12, 5\], but must be",
        ),
        (
            lambda arrays: arrays.update(embedding=np.zeros((11, 5))),
            r"'embedding' is \[11, 5\], but must be \[12,D\], like the logits \[12, 4\]",
        ),
        (
            lambda arrays: arrays.update(attention_stage1=np.zeros((12, 5))),
            r"'attention_stage1' is \[12, 5\], but must be \[12,h,w\]",
        ),
        (lambda arrays: arrays.update(labels=np.zeros(3)), "'labels' must be one number for each"),
        (lambda arrays: arrays.update(metadata=np.array("{")), "cannot be read"),
        (lambda arrays: arrays.update(logits=np.array([None])), "cannot be read: Object arrays"),
    ],
)
def test_open_outputs_refuses_wrong_arrays(tmp_path, change, message):
    arrays = _arrays()
    change(arrays)
    with pytest.raises(UserError, match=message):
        _save(tmp_path / "outputs.npz", arrays)


def test_open_outputs_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_outputs(str(tmp_path / "outputs.npz"))
    (tmp_path / "outputs.npz").write_text("text")
    with pytest.raises(UserError, match="cannot be read"):
        open_outputs(str(tmp_path / "outputs.npz"))
    (tmp_path / "outputs.pt").write_text("text")
    with pytest.raises(UserError, match=r"must be an \.npz file or a folder of \.npy files"):
        open_outputs(str(tmp_path / "outputs.pt"))


def test_open_outputs_names_a_damaged_file(tmp_path):
    """What NumPy raises: zlib.error, NotImplementedError, TypeError and tokenize.TokenError."""
    path = tmp_path / "outputs.npz"
    np.savez_compressed(path, **_arrays())
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    version = bytearray(path.read_bytes())
    version[version.rindex(b"PK\x01\x02") + 6] = 255
    folder = tmp_path / "outputs"
    folder.mkdir()
    np.save(folder / "logits.npy", _arrays()["logits"])
    alone = (folder / "logits.npy").read_bytes()
    for damaged in (data, version, alone):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"outputs\.npz cannot be read: ."):
            open_outputs(str(path))
    (folder / "logits.npy").write_bytes(alone.replace(b"}", b" "))
    with pytest.raises(UserError, match=r"outputs cannot be read: ."):
        open_outputs(str(folder))


@pytest.mark.parametrize("name", ["outputs", "outputs.npz"])
def test_write_outputs_leaves_nothing_after_an_error(tmp_path, name):
    dataset, data = _dataset(), default.get_config().data

    def batches():
        yield {"logits": np.zeros((4, 1, 4), np.float32)}
        raise KeyboardInterrupt

    (tmp_path / f"{name}.partial").write_text("of a process that was killed")
    with pytest.raises(KeyboardInterrupt):
        write_outputs(tmp_path / name, batches(), dataset, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["outputs", "outputs.npz"])
def test_write_outputs_error_on_a_full_disk_names_the_folder(tmp_path, limit_file_size, name):
    dataset, data = _dataset(64), default.get_config().data
    batches = ({"logits": np.ones((16, 1, 1000), np.float32)} for _ in range(4))
    limit_file_size(100_000)
    message = f"^cannot write to {tmp_path}: File too large; raise the limit of the file size or"
    with pytest.raises(UserError, match=message):
        write_outputs(tmp_path / name, batches, dataset, data)
    assert list(tmp_path.iterdir()) == []


def test_write_outputs_does_not_take_an_error_of_the_teacher_for_a_full_disk(tmp_path):
    def batches():
        raise FileNotFoundError("weights.pt")
        yield {}

    with pytest.raises(FileNotFoundError, match=r"weights\.pt"):
        write_outputs(tmp_path / "outputs", batches(), _dataset(), default.get_config().data)


def test_write_outputs_writes_the_files_of_numpy(tmp_path):
    dataset, data = _dataset(), default.get_config().data
    arrays = {**_arrays(views=2), "labels": dataset.train.arrays()[1]}
    batches = [{name: array[rows] for name, array in arrays.items()} for rows in
               (slice(5), slice(5, 10), slice(10, 12))]  # fmt: skip
    write_outputs(tmp_path / "outputs", batches, dataset, data)
    for name, array in arrays.items():
        np.save(tmp_path / "one.npy", array)
        written = (tmp_path / f"outputs/{name}.npy").read_bytes()
        assert written == (tmp_path / "one.npy").read_bytes()


def test_open_outputs_reads_a_file_again_that_was_replaced(tmp_path):
    first = _save(tmp_path / "outputs.npz", _arrays())
    assert open_outputs(str(tmp_path / "outputs.npz")) is first
    assert len(_save(tmp_path / "outputs.npz", _arrays(count=9))) == 9


def test_check_rows_guards_the_order(tmp_path):
    dataset, data = _dataset(), default.get_config().data
    images, labels = dataset.train.arrays()
    arrays = {"logits": np.eye(4, dtype=np.float32)[labels]}
    alone = _save(tmp_path / "alone.npz", arrays)
    assert alone.check_rows(dataset, data) == 1.0
    assert "12 images, one view each; logits; " in alone.describe(1.0)
    assert "their order is taken on trust" in alone.describe(1.0)
    with pytest.raises(UserError, match=r"has 12 rows, but there are 8 training images in random"):
        alone.check_rows(_dataset(8), data)
    write_outputs(tmp_path / "outputs.npz", [{**arrays, "labels": labels}], dataset, data)
    stored = open_outputs(str(tmp_path / "outputs.npz"))
    assert stored.check_rows(dataset, data) == 1.0
    assert "on trust" not in stored.describe(1.0)
    other_order = InMemorySource(images[::-1], labels[::-1])
    with pytest.raises(UserError, match="row 0 belongs to an image of class 0, but image 0 has"):
        stored.check_rows(dataclasses.replace(dataset, train=other_order), data)
    for change, message in (
        ({"name": "other"}, "data set 'random', now 'other'"),
        ({"class_names": ("a", "b", "d", "c")}, "other class names"),
        ({"digest": "1234"}, "names or sizes of the image files differ"),
    ):
        with pytest.raises(UserError, match=message):
            stored.check_rows(dataclasses.replace(dataset, **change), data)
    data.validation_seed = 1  # without a validation split the seed has no effect
    assert stored.check_rows(dataset, data) == 1.0
    data.validation = 0.25
    with pytest.raises(UserError, match="another choice of validation images"):
        stored.check_rows(dataset, data)
    write_outputs(tmp_path / "outputs.npz", [{**arrays, "labels": labels}], dataset, data)
    stored = open_outputs(str(tmp_path / "outputs.npz"))
    assert stored.check_rows(dataset, data) == 1.0
    data.validation_seed = 0
    with pytest.raises(UserError, match="another choice of validation images"):
        stored.check_rows(dataset, data)


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        (("kd", "cc"), {}, "^cc: .*cc reads 'embedding'; it has 'logits', 'attention_stage1'"),
        (("kd+at",), {}, r"^kd\+at: .*at reads 'attention_stage2', 'attention_stage3'"),
        (("fitnet",), {}, "^fitnet: .* fitnet reads teacher.features: choose other methods"),
        (("wkd_l",), {}, "wkd_l reads teacher.class_weights"),
        (("kd",), {"augment.flip": True}, "needs those of the mirror image too"),
        (("kd",), {"augment.padding": 2}, "config.teacher.outputs has .*padding=2 changes"),
        (("kd",), {"mix.name": "mixup"}, "config.mix.name='mixup' changes the images"),
        (("eskd",), {}, "stopped early, but config.teacher.outputs gives one"),
    ],
)
def test_check_settings_names_what_a_file_lacks(tmp_path, methods, settings, message):
    arrays = _arrays()
    del arrays["embedding"]
    _save(tmp_path / "outputs.npz", arrays)
    config = default.get_config()
    config.methods = methods
    config.teacher.outputs = str(tmp_path / "outputs.npz")
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message):
        check_settings(config, plan_runs(config))


def test_check_inputs_accepts_what_a_file_has(tmp_path):
    stored = _save(tmp_path / "outputs.npz", _arrays(views=2))
    at = {"features": ("stage2",), "teacher_features": ("stage1",)}
    stored.check_inputs(build_objective({"ce": {}, "kd": {}, "at": at, "pkt": {}}), mirrored=True)
    stored.check_classes(4)
    with pytest.raises(UserError, match="have 4 classes, the data set has 5"):
        stored.check_classes(5)


@pytest.mark.parametrize(
    ("accuracy", "classes", "known", "finding"),
    [
        (0.12, 10, None, "hardly above chance (10.00%)"),
        (0.54, 2, 0.9, "hardly above chance (50.00%)"),
        (0.70, 10, 0.93, "far below the 93.00% that its checkpoint has"),
        (0.90, 10, 0.93, ""),
        (0.25, 10, None, ""),
    ],
)
def test_low_accuracy_warnings_names_the_likely_causes(accuracy, classes, known, finding):
    warnings = low_accuracy_warnings(accuracy, classes, known)
    assert len(warnings) == bool(finding)
    assert all(word in line for line in warnings for word in (finding, "normalised", "order"))


def test_load_teacher_function_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_teacher_module.py").write_text("SIZE = 3\ndef teach(images): ...\n")
    assert callable(load_teacher_function("my_teacher_module:teach"))
    for reference, message in (
        ("my_teacher_module", "must be module:function"),
        ("no_such_module:teach", "there is no module 'no_such_module'"),
        ("my_teacher_module:teech", "did you mean teach"),
        ("my_teacher_module:SIZE", "is a int, not a function"),
    ):
        with pytest.raises(UserError, match=message):
            load_teacher_function(reference)


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


def test_command_function_may_be_a_network_of_pytorch(tmp_path):
    """A network as in torchvision, with channels first, in float32 and bfloat16."""
    torch = pytest.importorskip("torch")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.layer1 = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1)
            self.fc = torch.nn.Linear(16, 4)

        def forward(self, x):
            stem = torch.relu(self.conv1(x))
            stage1 = torch.relu(self.layer1(stem))
            embedding = stage1.mean(dim=(2, 3))
            return self.fc(embedding), embedding, stage1

    torch.manual_seed(0)
    network = Network().eval()

    def teach(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        logits, embedding, stage1 = network(x)
        features = {"stage1": stage1.permute(0, 2, 3, 1)}
        return {"logits": logits, "embedding": embedding.bfloat16(), "features": features}

    dataset = _dataset(6)
    batches = compute_outputs(
        teach, dataset.train, 4, batch_size=4, mirrored=True, description="images"
    )
    write_outputs(tmp_path / "torch.npz", batches, dataset, default.get_config().data)
    stored = open_outputs(str(tmp_path / "torch.npz"))
    images = dataset.train.arrays()[0]
    with torch.no_grad():
        for view, pixels in enumerate((images, images[:, :, ::-1].copy())):
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
            logits, embedding, stage1 = (value.numpy() for value in network(x))
            maps = stored.arrays["attention_stage1"][:, view]
            np.testing.assert_allclose(stored.arrays["logits"][:, view], logits, 1e-4, 1e-6)
            np.testing.assert_allclose(stored.arrays["embedding"][:, view], embedding, rtol=1e-2)
            np.testing.assert_allclose(maps, np.sum(stage1**2, axis=1), 1e-4, 1e-6)
