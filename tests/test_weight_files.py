"""Files of PyTorch weights: what training scripts save, and what is wrong with others."""

import json
import re
import struct
import zipfile
from collections import OrderedDict

import jax
import ml_dtypes
import numpy as np
import pytest

from amdjax.errors import UserError
from amdjax.models import import_torch_state_dict
from amdjax.weight_files import read_weights
from tests.reference_values import load, prefixed
from tests.torch_weights import resnet8_weights, save_npz, save_safetensors


@pytest.fixture(scope="module")
def state_dict():
    return resnet8_weights()


def _pth(path, weights):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{key}": torch.from_numpy(np.array(v)) for key, v in weights.items()}
    torch.save({"epoch": 3, "state_dict": tensors}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


@pytest.mark.parametrize("save", [save_npz, save_safetensors, _pth])
def test_read_weights_reads_pytorch_weights(tmp_path, state_dict, save):
    variables = read_weights(save(tmp_path / "teacher", state_dict), "resnet8")
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    theirs = state_dict["layer2.0.conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    mean = variables["batch_stats"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, state_dict["bn1.running_mean"])


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pth", ".pt"])
def test_read_weights_names_a_damaged_file(tmp_path, ending):
    if ending in (".pth", ".pt"):
        pytest.importorskip("torch")
    path = tmp_path / f"teacher{ending}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=f"teacher{ending} cannot be read: .") as caught:
        read_weights(path, "resnet8")
    assert len(str(caught.value).splitlines()) == 1


def test_read_weights_names_a_damaged_npz_file(tmp_path, state_dict):
    """What NumPy raises: zlib.error, NotImplementedError, TypeError and tokenize.TokenError."""
    path = tmp_path / "teacher.npz"
    np.savez_compressed(path, a=state_dict["conv1.weight"])
    data = bytearray(path.read_bytes())
    data[100:200] = bytes(100)
    version = bytearray(path.read_bytes())
    version[version.rindex(b"PK\x01\x02") + 6] = 255
    np.save(tmp_path / "alone.npy", np.zeros(3))
    alone = (tmp_path / "alone.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        archive.writestr("a.npy", alone.replace(b"}", b" "))
    for damaged in (data, version, alone, (tmp_path / "header.npz").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"teacher\.npz cannot be read: ."):
            read_weights(path, "resnet8")


def test_read_weights_refuses_safetensors_of_float8(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(UserError, match=r"such as float8 .*use weights that are not quantised"):
        read_weights(path, "resnet8")


def _to_tgd(key):
    """Returns the name that jeunsom/TGD's WideResNet.py has for a variable."""
    key = key.replace(".layer.", ".nblockLayer.").replace("convShortcut", "conv_inp")
    key = re.sub(r"\.bn(?=\d)", ".batch_norm", key)
    return re.sub(r"^bn1", "batch_norm", key)


def _to_pytorch_cifar(key):
    """Returns the name that kuangliu/pytorch-cifar's resnet.py has for a variable."""
    return key.replace("downsample", "shortcut").replace("fc.", "linear.")


NAMES = {
    "TGD": ("wrn_16_1", _to_tgd),
    "pytorch-cifar": ("resnet8", _to_pytorch_cifar),
    "pytorch-cifar-models": ("resnet8", lambda key: key),
    "torch.compile": ("resnet8", "_orig_mod.{}".format),
    "torch.compile of a part": (
        "resnet8",
        lambda key: key.replace("layer1.", "layer1._orig_mod."),
    ),
    "DataParallel of torch.compile": ("resnet8", "module._orig_mod.{}".format),
    "Lightning": ("resnet8", "model.{}".format),
    "Lightning with torch.compile": ("resnet8", "model._orig_mod.{}".format),
    "distillation in Lightning": ("resnet8", "student.{}".format),
    "mdistiller": ("resnet8", "module.student.{}".format),
    "AveragedModel": ("resnet8", "module.{}".format),
}


@pytest.mark.parametrize("source", NAMES)
def test_read_weights_reads_published_names(tmp_path, state_dict, source):
    model, rename = NAMES[source]
    weights = state_dict if model == "resnet8" else prefixed(load(f"model_{model}"), "param")
    expected = import_torch_state_dict(model, weights)
    renamed = {rename(key): value for key, value in weights.items()}
    renamed["n_averaged"] = np.array(3)
    path = save_safetensors(tmp_path / "teacher", renamed)
    jax.tree.map(np.testing.assert_array_equal, read_weights(path, model), expected)


def test_read_weights_prefers_the_student_and_its_averages(tmp_path, state_dict, capsys):
    expected = import_torch_state_dict("resnet8", state_dict)
    zeros = {key: np.zeros_like(value) for key, value in state_dict.items()}
    for kept, other, left_out in (
        ("student.", "teacher.", "teacher"),
        ("ema_model.", "model.", "model"),
        ("module.student.", "module.criterion.", "criterion"),
    ):
        weights = {f"{kept}{key}": value for key, value in state_dict.items()}
        weights |= {f"{other}{key}": value for key, value in zeros.items()}
        path = save_safetensors(tmp_path / "teacher", weights)
        jax.tree.map(np.testing.assert_array_equal, read_weights(path, "resnet8"), expected)
        err = capsys.readouterr().err
        assert f"not read, since not part of the network: {left_out}" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_read_weights_reads_every_floating_point_type(tmp_path, state_dict, dtype):
    weights = {key: value.astype(dtype) for key, value in state_dict.items()}
    path = save_safetensors(tmp_path / "teacher", weights)
    variables = read_weights(path, "resnet8")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    kernel = variables["params"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, weights["conv1.weight"].astype(np.float32))


def test_read_weights_names_a_variable_that_is_no_array_of_numbers(tmp_path, state_dict):
    path = save_npz(tmp_path / "teacher", {**state_dict, "conv1.weight": np.array("text")})
    with pytest.raises(UserError, match=r"'conv1\.weight' is not an array of numbers"):
        read_weights(path, "resnet8")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool])
def test_read_weights_refuses_quantised_weights(tmp_path, state_dict, dtype):
    weights = {**state_dict, "conv1.weight": state_dict["conv1.weight"].astype(dtype)}
    path = save_npz(tmp_path / "teacher", weights)
    message = rf"teacher\.npz: .*'conv1\.weight' is {np.dtype(dtype)}, not floating point"
    with pytest.raises(UserError, match=message):
        read_weights(path, "resnet8")


@pytest.mark.parametrize(
    ("key", "twin"),
    [
        ("fc.weight", "classifier.0.weight"),
        ("fc.bias", "linear.bias"),
        ("conv1.weight", "module.conv1.weight"),
        ("layer2.0.downsample.0.weight", "layer2.0.shortcut.0.weight"),
    ],
)
def test_read_weights_refuses_two_names_of_one_array(tmp_path, state_dict, key, twin):
    path = save_npz(tmp_path / "teacher", {**state_dict, twin: np.zeros_like(state_dict[key])})
    message = rf"teacher\.npz: .*'{re.escape(key)}' and '{re.escape(twin)}'.* of the same array"
    with pytest.raises(UserError, match=message):
        read_weights(path, "resnet8")


def test_import_torch_state_dict_refuses_keys_that_are_no_names(state_dict):
    with pytest.raises(UserError, match=r"have the key 0; keys must be names such as 'conv1\."):
        import_torch_state_dict("resnet8", dict(enumerate(state_dict.values())))


def test_read_weights_shows_names_that_it_does_not_know(tmp_path, state_dict):
    names = {f"features.{i}.weight": value for i, value in enumerate(state_dict.values())}
    path = save_npz(tmp_path / "teacher", names)
    with pytest.raises(UserError, match=r"'fc\.weight' is missing, but there are 'features\.0\."):
        read_weights(path, "vgg16")
    names["classifier.weight"] = np.zeros((10, 512))
    path = save_npz(tmp_path / "teacher", names)
    with pytest.raises(UserError, match=r"'block0\.\S+' is missing, but there are 'features"):
        read_weights(path, "vgg16")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def _tensors(torch, weights):
    return OrderedDict((key, torch.from_numpy(np.array(v))) for key, v in weights.items())


# What training scripts save, from a state dict and one of zeros.
SAVED = {
    "RepDistiller": lambda torch, sd, zero: {
        "opt": _namespace(),
        "model": sd,
        "acc": np.float64(3),
    },
    "TGD": lambda torch, sd, zero: {"model_state_dict": sd, "epoch": 3},
    "Parameters": lambda torch, sd, zero: OrderedDict(
        (key, torch.nn.Parameter(value) if value.is_floating_point() else value)
        for key, value in sd.items()
    ),
    "list": lambda torch, sd, zero: [sd, {"lr": 0.1}, 7],
    "timm": lambda torch, sd, zero: {"state_dict": zero, "state_dict_ema": sd},
    "torchvision": lambda torch, sd, zero: {
        "model": zero,
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in sd.items()}},
    },
    "Lightning": lambda torch, sd, zero: {
        "state_dict": {f"model._orig_mod.{key}": value for key, value in sd.items()},
        "hyper_parameters": {"lr": 0.1},
        "ema": {"decay": 0.99},
    },
}


def _namespace():
    from argparse import Namespace

    return Namespace(model="resnet8", trial=np.int64(3))


@pytest.mark.parametrize("script", SAVED)
def test_read_weights_reads_what_training_scripts_save(tmp_path, state_dict, torch, script):
    ending = {"TGD": ".pth.tar", "Lightning": ".ckpt", "timm": ".bin"}.get(script, ".pth")
    tensors = _tensors(torch, state_dict)
    zeros = OrderedDict((key, torch.zeros_like(value)) for key, value in tensors.items())
    torch.save(SAVED[script](torch, tensors, zeros), tmp_path / f"teacher{ending}")
    variables = read_weights(tmp_path / f"teacher{ending}", "resnet8")
    expected = import_torch_state_dict("resnet8", state_dict)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_read_weights_reads_tensors_of_half_precision(tmp_path, state_dict, torch):
    for dtype in (torch.bfloat16, torch.float16):
        tensors = {key: value.to(dtype) for key, value in _tensors(torch, state_dict).items()}
        torch.save(tensors, tmp_path / "teacher.pth")
        variables = read_weights(tmp_path / "teacher.pth", "resnet8")
        mean = variables["batch_stats"]["bn1"]["mean"]
        np.testing.assert_array_equal(mean, tensors["bn1.running_mean"].float().numpy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda torch: torch.nn.Linear(2, 3), r"an object of torch\.nn\.modules\.linear\.Linear"),
        (lambda torch: [torch.zeros(2)], "a list of 1 entries, of which 0 name their arrays"),
        (lambda torch: {"epoch": 3}, "no arrays with names"),
    ],
)
def test_read_weights_refuses_what_has_no_names_or_is_code(tmp_path, torch, make, message):
    torch.save(make(torch), tmp_path / "teacher.pth")
    with pytest.raises(UserError, match=message) as caught:
        read_weights(tmp_path / "teacher.pth", "resnet8")
    assert "torch.save(model.state_dict()" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_read_weights_names_a_torch_file_that_was_cut(tmp_path, state_dict, torch):
    torch.save(_tensors(torch, state_dict), tmp_path / "teacher.pth")
    data = (tmp_path / "teacher.pth").read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"\xff" * 100):
        (tmp_path / "teacher.pth").write_bytes(damaged)
        with pytest.raises(UserError, match=r"teacher\.pth cannot be read: ."):
            read_weights(tmp_path / "teacher.pth", "resnet8")
