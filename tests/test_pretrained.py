"""Teachers that were trained before: runs, and files or folders of PyTorch weights."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from amdjax import pretrained, register_model
from amdjax.checkpoint_files import checkpoint_digest
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.models import Model, Outputs, create_model, import_torch_state_dict, init_variables
from tests.torch_weights import resnet8_weights, save_npz, save_safetensors
from tests.trained_run import save_network


def _data(num_classes, side=32):
    names = tuple(f"class_{label}" for label in range(num_classes))
    return Fingerprint("folder", names, (side, side, 3), {"train": 64, "test": 32})


@pytest.fixture(scope="module")
def state_dict():
    return resnet8_weights()


def load_teacher(path, name, num_classes):
    return pretrained.load_teacher(path, name, _data(num_classes)).variables


def test_load_teacher_refuses_other_classes(tmp_path, state_dict):
    path = save_npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match="has 10 classes, the data set 4"):
        load_teacher(str(path), "resnet8", 4)


def test_load_teacher_refuses_weights_of_another_model(tmp_path, state_dict):
    path = save_npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match=r"resnet14 .*'layer1\.1\.\S+' is missing"):
        load_teacher(str(path), "resnet14", 10)
    path = save_npz(tmp_path / "teacher", {**state_dict, "layer1.1.bn1.weight": np.ones(16)})
    with pytest.raises(UserError, match=r"resnet8 .*: unexpected 'layer1\.1"):
        load_teacher(str(path), "resnet8", 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no complete checkpoint"),
        (
            lambda path: [(path / name / "checkpoints/8").mkdir(parents=True) for name in "ab"],
            r"teacher is a workdir; name one of its runs: \S+/teacher/a, \S+/teacher/b$",
        ),
        (lambda path: path.write_text("x"), "have an unknown format"),
    ],
)
def test_load_teacher_refuses_other_paths(tmp_path, make, message):
    make(tmp_path / "teacher")
    with pytest.raises(UserError, match=message):
        load_teacher(str(tmp_path / "teacher"), "resnet8", 10)


def test_load_teacher_refuses_outputs_of_a_teacher(tmp_path):
    np.savez(tmp_path / "teacher.npz", logits=np.ones((4, 10)), labels=np.ones(4))
    with pytest.raises(
        UserError, match=r"outputs of a teacher, not weights: .*config\.teacher\.out"
    ):
        load_teacher(str(tmp_path / "teacher.npz"), "resnet8", 10)


class Flat(Model):
    """A linear classifier of the pixels, whose shapes depend on the size of the images."""

    @nn.compact
    def __call__(self, x, train=False, feature_hook=None):
        logits = nn.Dense(self.num_classes, name="fc")(x.reshape(len(x), -1))
        return Outputs(logits, {}, logits)


def test_load_teacher_checks_the_shapes_for_the_images_of_the_data_set(tmp_path):
    register_model("flat", "a linear classifier")(Flat)
    variables = init_variables(create_model("flat", 4), jax.random.key(0), (16, 16, 3))
    save_network(tmp_path, _data(4, side=16), variables, model="flat")
    loaded = pretrained.load_teacher(str(tmp_path), "flat", _data(4, side=16))
    assert loaded.variables["params"]["fc"]["kernel"].shape == (16 * 16 * 3, 4)
    with pytest.raises(UserError, match="does not match flat"):
        pretrained.load_teacher(str(tmp_path), "flat", _data(4, side=8))


def _save_flat(folder, data, steps=(8,), **settings):
    register_model("flat", "a linear classifier")(Flat)
    for step in steps:
        fc = {"kernel": np.full((8 * 8 * 3, 4), step, np.float32), "bias": np.zeros(4, np.float32)}
        save_network(folder, data, {"params": {"fc": fc}}, step=step, **settings)


def test_load_teacher_returns_the_checkpoint_that_it_has_read(tmp_path):
    data = _data(4, side=8)
    _save_flat(tmp_path, data, steps=(4, 8))
    path, digests = (
        str(tmp_path),
        [checkpoint_digest(tmp_path / f"checkpoints/{step}") for step in (4, 8)],
    )
    (newest,) = pretrained.load_teacher(path, "flat", data).checkpoints
    assert newest == {"source": path, "step": 8, "digest": digests[1]}
    (tmp_path / "checkpoints/8/run/metadata").write_text("{}")  # damaged
    teacher = pretrained.load_teacher(path, "flat", data)
    assert teacher.checkpoints == ({"source": path, "step": 4, "digest": digests[0]},)
    assert teacher.variables["params"]["fc"]["kernel"][0, 0] == 4
    assert digests[0] != digests[1]
    (tmp_path / "checkpoints/4/checksums.json").unlink()
    assert checkpoint_digest(tmp_path / "checkpoints/4") is None


def test_load_teacher_reads_the_checkpoint_of_a_run_with_weights_in_its_folder(tmp_path):
    data = _data(4, side=8)
    _save_flat(tmp_path, data)
    for folder in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "8"):
        save_safetensors(folder / "model", {"fc.weight": np.zeros((4, 192), np.float32)})
        (folder / "pytorch_model.bin").write_bytes(b"is not read")
        teacher = pretrained.load_teacher(str(folder), "flat", data)
        assert teacher.variables["params"]["fc"]["kernel"][0, 0] == 8
        assert [one["step"] for one in teacher.checkpoints] == [8]


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [
        ("config.teacher.checkpoint", "config.teacher.name"),
        ("config.teacher.ensemble", "config.teacher.ensemble_models"),
    ],
)
def test_load_teacher_says_which_network_a_run_has(setting, wrong, tmp_path):
    data = _data(4, side=8)
    _save_flat(tmp_path, data, model="flat")
    message = rf"{setting}: \S+ has the network flat, not resnet14; correct {wrong}"
    with pytest.raises(UserError, match=message):
        pretrained.load_teacher(str(tmp_path), "resnet14", data, setting)


def test_load_teacher_refuses_a_run_of_the_same_classes_in_another_order(tmp_path, capsys):
    data = _data(4, side=8)
    turned = dataclasses.replace(data, class_names=data.class_names[::-1])
    _save_flat(tmp_path, turned)
    message = r"^config\.teacher\.checkpoint: .*\(their order differs\).*config\.teacher\.outputs"
    with pytest.raises(UserError, match=message) as caught:
        pretrained.load_teacher(str(tmp_path), "flat", data)
    assert "--workdir" not in str(caught.value)
    assert capsys.readouterr().err == ""
    pretrained.load_teacher(str(tmp_path), "flat", data, resumed=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: config.teacher.checkpoint: ")
    assert line.endswith("the students were started with it and continue")


def test_load_teacher_refuses_a_run_whose_loss_defines_the_predictions(tmp_path):
    save_network(tmp_path, _data(4), losses={"arcface": {}, "cosface": {"weight": 0}})
    with pytest.raises(UserError, match="trained with arcface, whose predictions are not"):
        load_teacher(str(tmp_path), "resnet8", 4)


def test_load_teacher_takes_safetensors_first_from_a_folder_of_the_hub(tmp_path, state_dict):
    (tmp_path / "pytorch_model.bin").write_bytes(b"is not read")
    (tmp_path / "config.json").write_text("{}")
    save_safetensors(tmp_path / "model", state_dict)
    variables = load_teacher(str(tmp_path), "resnet8", 10)
    expected = import_torch_state_dict("resnet8", state_dict)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    (tmp_path / "model.safetensors").unlink()
    for name in ("model-1-of-2", "model-2-of-2"):
        save_safetensors(tmp_path / name, state_dict)
    with pytest.raises(UserError, match=r"several files of weights \(model-1-of-2.safetensors, "):
        load_teacher(str(tmp_path), "resnet8", 10)
