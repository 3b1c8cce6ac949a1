"""A teacher from PyTorch, in every form that it may be stored in."""

import numpy as np
import pytest
import safetensors.numpy

from amdjax.errors import UserError
from amdjax.pretrained import load_teacher
from tests.reference_values import load, prefixed


@pytest.fixture(scope="module")
def state_dict():
    return prefixed(load("model_resnet20"), "param")


def _npz(path, weights):
    np.savez(path.with_suffix(".npz"), **weights)
    return path.with_suffix(".npz")


def _safetensors(path, weights):
    contiguous = {key: np.ascontiguousarray(value) for key, value in weights.items()}
    safetensors.numpy.save_file(contiguous, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def _pth(path, weights):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{key}": torch.from_numpy(np.array(v)) for key, v in weights.items()}
    torch.save({"epoch": 3, "state_dict": tensors}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


@pytest.mark.parametrize("save", [_npz, _safetensors, _pth])
def test_load_teacher_reads_pytorch_weights(tmp_path, state_dict, save):
    variables = load_teacher(str(save(tmp_path / "teacher", state_dict)), "resnet20", 10)
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    theirs = state_dict["layer2.0.conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    mean = variables["batch_stats"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, state_dict["bn1.running_mean"])


def test_load_teacher_refuses_other_classes(tmp_path, state_dict):
    path = _npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match="has 10 classes, the data set 4"):
        load_teacher(str(path), "resnet20", 4)


def test_load_teacher_refuses_weights_of_another_model(tmp_path, state_dict):
    path = _npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match=r"resnet26 .*'layer1\.3\.\S+' is missing"):
        load_teacher(str(path), "resnet26", 10)
    with pytest.raises(UserError, match=r"resnet14 .*: unexpected 'layer1\.2"):
        load_teacher(str(path), "resnet14", 10)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pth", ".pt"])
def test_load_teacher_names_a_damaged_file(tmp_path, ending):
    if ending in (".pth", ".pt"):
        pytest.importorskip("torch")
    path = tmp_path / f"teacher{ending}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=f"teacher{ending} cannot be read: .") as caught:
        load_teacher(str(path), "resnet20", 10)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no complete checkpoint"),
        (lambda path: path.write_text("x"), "has an unknown format"),
    ],
)
def test_load_teacher_refuses_other_paths(tmp_path, make, message):
    make(tmp_path / "teacher")
    with pytest.raises(UserError, match=message):
        load_teacher(str(tmp_path / "teacher"), "resnet20", 10)
