"""Files of outputs: reading, and whether they are those of the images and have what losses read."""

import dataclasses

import numpy as np
import pytest

from amdjax.configs import default
from amdjax.data import InMemorySource
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.losses import build_objective
from amdjax.teacher_outputs.stored import open_outputs
from amdjax.teacher_outputs.write import write_outputs
from amdjax.training.preflight import check_settings
from tests.teacher_outputs.make_outputs import make_arrays, make_dataset, save_outputs


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_open_outputs_reads_npz_and_folders_alike(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in make_arrays().items()}
    archive, folder = save_outputs(tmp_path / "a.npz", arrays), save_outputs(tmp_path / "b", arrays)
    assert isinstance(folder.arrays["logits"], np.memmap)
    assert archive.digest == folder.digest
    for name, one in (("logits", archive.rows(1).logits), ("embedding", folder.rows(1).embedding)):
        assert one[:3].dtype == np.float32
        np.testing.assert_allclose(one[:3, 0], arrays[name][:3], rtol=1e-3)
    maps = folder.rows(1).features["stage1"][np.array([4])]
    np.testing.assert_allclose(maps[0, 0, ..., 0] ** 2, arrays["attention_stage1"][4], rtol=1e-5)
    arrays["logits"][5, 1] += 1
    assert save_outputs(tmp_path / "c.npz", arrays).digest != archive.digest


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
    arrays = make_arrays()
    change(arrays)
    with pytest.raises(UserError, match=message):
        save_outputs(tmp_path / "outputs.npz", arrays)


def test_open_outputs_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_outputs(str(tmp_path / "outputs.npz"))
    (tmp_path / "outputs.npz").write_text("text")
    with pytest.raises(UserError, match=r"cannot be read: it is not an \.npz file, or is damaged$"):
        open_outputs(str(tmp_path / "outputs.npz"))
    (tmp_path / "run" / "checkpoints" / "8").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a run of amdjax; .* config\.teacher\.checkpoint$"):
        open_outputs(str(tmp_path / "run"))
    (tmp_path / "outputs.pt").write_text("text")
    with pytest.raises(UserError, match=r"must be an \.npz file or a folder of \.npy files"):
        open_outputs(str(tmp_path / "outputs.pt"))


def test_open_outputs_names_a_damaged_file(tmp_path):
    """What NumPy raises: zlib.error, NotImplementedError, TypeError and tokenize.TokenError."""
    path = tmp_path / "outputs.npz"
    np.savez_compressed(path, **make_arrays())
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    version = bytearray(path.read_bytes())
    version[version.rindex(b"PK\x01\x02") + 6] = 255
    folder = tmp_path / "outputs"
    folder.mkdir()
    np.save(folder / "logits.npy", make_arrays()["logits"])
    alone = (folder / "logits.npy").read_bytes()
    for damaged in (data, version, alone):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"outputs\.npz cannot be read: ."):
            open_outputs(str(path))
    (folder / "logits.npy").write_bytes(alone.replace(b"}", b" "))
    with pytest.raises(UserError, match=r"outputs cannot be read: ."):
        open_outputs(str(folder))


def test_open_outputs_reads_a_file_again_that_was_replaced(tmp_path):
    first = save_outputs(tmp_path / "outputs.npz", make_arrays())
    assert open_outputs(str(tmp_path / "outputs.npz")) is first
    assert len(save_outputs(tmp_path / "outputs.npz", make_arrays(count=9))) == 9


def test_check_rows_guards_the_order(tmp_path):
    dataset, data = make_dataset(), default.get_config().data
    images, labels = dataset.train.arrays()
    arrays = {"logits": np.eye(4, dtype=np.float32)[labels]}
    alone = save_outputs(tmp_path / "alone.npz", arrays)
    assert alone.check_rows(dataset, data) == 1.0
    assert "12 images, one view each; logits [4]; " in alone.describe(1.0)
    assert "their order is taken on trust" in alone.describe(1.0)
    with pytest.raises(UserError, match=r"has 12 rows, but there are 8 training images in random"):
        alone.check_rows(make_dataset(8), data)
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
    arrays = make_arrays()
    del arrays["embedding"]
    save_outputs(tmp_path / "outputs.npz", arrays)
    config = default.get_config()
    config.methods = methods
    config.teacher.outputs = str(tmp_path / "outputs.npz")
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message):
        check_settings(config, plan_runs(config))


def test_check_inputs_accepts_what_a_file_has(tmp_path):
    stored = save_outputs(tmp_path / "outputs.npz", make_arrays(views=2))
    at = {"features": ("stage2",), "teacher_features": ("stage1",)}
    stored.check_inputs(build_objective({"ce": {}, "kd": {}, "at": at, "pkt": {}}), mirrored=True)
    stored.check_classes(4)
    with pytest.raises(UserError, match="have 4 classes, the data set has 5"):
        stored.check_classes(5)
