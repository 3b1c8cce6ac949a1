"""A teacher from PyTorch, in every form that it may be stored in."""

import dataclasses
import json
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from amdjax import pretrained, register_model
from amdjax.checkpoint_files import digest_of
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.models import Model, Outputs, create_model, import_torch_state_dict, init_variables
from tests.reference_values import load, prefixed
from tests.trained_run import save_network


def _data(num_classes, side=32):
    names = tuple(f"class_{label}" for label in range(num_classes))
    return Fingerprint("folder", names, (side, side, 3), {"train": 64, "test": 32})


def load_teacher(path, name, num_classes):
    return pretrained.load_teacher(path, name, _data(num_classes)).variables


@pytest.fixture(scope="module")
def state_dict():
    """Weights of a ResNet-8: the first block of each stage of a ResNet-20."""
    weights = prefixed(load("model_resnet20"), "param")
    return {key: value for key, value in weights.items() if not re.match(r"layer\d\.[12]", key)}


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
    variables = load_teacher(str(save(tmp_path / "teacher", state_dict)), "resnet8", 10)
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    theirs = state_dict["layer2.0.conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    mean = variables["batch_stats"]["bn1"]["mean"]
    np.testing.assert_array_equal(mean, state_dict["bn1.running_mean"])


def test_load_teacher_refuses_other_classes(tmp_path, state_dict):
    path = _npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match="has 10 classes, the data set 4"):
        load_teacher(str(path), "resnet8", 4)


def test_load_teacher_refuses_weights_of_another_model(tmp_path, state_dict):
    path = _npz(tmp_path / "teacher", state_dict)
    with pytest.raises(UserError, match=r"resnet14 .*'layer1\.1\.\S+' is missing"):
        load_teacher(str(path), "resnet14", 10)
    path = _npz(tmp_path / "teacher", {**state_dict, "layer1.1.bn1.weight": np.ones(16)})
    with pytest.raises(UserError, match=r"resnet8 .*: unexpected 'layer1\.1"):
        load_teacher(str(path), "resnet8", 10)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pth", ".pt"])
def test_load_teacher_names_a_damaged_file(tmp_path, ending):
    if ending in (".pth", ".pt"):
        pytest.importorskip("torch")
    path = tmp_path / f"teacher{ending}"
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=f"teacher{ending} cannot be read: .") as caught:
        load_teacher(str(path), "resnet8", 10)
    assert len(str(caught.value).splitlines()) == 1


def test_load_teacher_names_a_damaged_npz_file(tmp_path, state_dict):
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
            load_teacher(str(path), "resnet8", 10)


def test_load_teacher_refuses_safetensors_of_float8(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(UserError, match=r"such as float8 .*take weights that are not quantised"):
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
    path, digests = str(tmp_path), [digest_of(tmp_path / f"checkpoints/{step}") for step in (4, 8)]
    (newest,) = pretrained.load_teacher(path, "flat", data).checkpoints
    assert newest == {"source": path, "step": 8, "digest": digests[1]}
    (tmp_path / "checkpoints/8/run/metadata").write_text("{}")  # damaged
    teacher = pretrained.load_teacher(path, "flat", data)
    assert teacher.checkpoints == ({"source": path, "step": 4, "digest": digests[0]},)
    assert teacher.variables["params"]["fc"]["kernel"][0, 0] == 4
    assert digests[0] != digests[1]
    (tmp_path / "checkpoints/4/checksums.json").unlink()
    assert digest_of(tmp_path / "checkpoints/4") is None


def test_load_teacher_reads_the_checkpoint_of_a_run_with_weights_in_its_folder(tmp_path):
    data = _data(4, side=8)
    _save_flat(tmp_path, data)
    for folder in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "8"):
        _safetensors(folder / "model", {"fc.weight": np.zeros((4, 192), np.float32)})
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


def test_find_run_follows_relative_paths_and_links(tmp_path, monkeypatch):
    run = tmp_path.resolve() / "w" / "teacher"
    checkpoints, exported = run / "checkpoints", run / "exported"
    for folder in (checkpoints / "7", checkpoints / "8", exported / "more"):
        folder.mkdir(parents=True)
    (tmp_path / "best").symlink_to(checkpoints / "7")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "checkpoints").symlink_to(checkpoints)
    for at, path in (
        (tmp_path, "w/teacher"),
        (run, "."),
        (checkpoints, "."),
        (checkpoints, "7"),
        (checkpoints, ".."),
        (checkpoints / "7", "."),
        (checkpoints / "7", "../8"),
        (exported, "../checkpoints/8"),
        (tmp_path, "best"),
    ):
        monkeypatch.chdir(at)
        found = pretrained.find_run(Path(path))
        assert found is not None, path
        assert found.resolve() == run, path
    linked = tmp_path / "elsewhere"
    assert pretrained.find_run(linked / "checkpoints") == linked
    for path in (exported, exported / "more", tmp_path, tmp_path / "w", tmp_path / "gone"):
        assert pretrained.find_run(path) is None, path


def test_load_teacher_refuses_a_run_of_the_same_classes_in_another_order(tmp_path, capsys):
    data = _data(4, side=8)
    turned = dataclasses.replace(data, class_names=data.class_names[::-1])
    _save_flat(tmp_path, turned)
    message = r"^config\.teacher\.checkpoint: .*\(their order differs\).*config\.teacher\.outputs"
    with pytest.raises(UserError, match=message) as caught:
        pretrained.load_teacher(str(tmp_path), "flat", data)
    assert "--workdir" not in str(caught.value)
    assert capsys.readouterr().err == ""
    pretrained.load_teacher(str(tmp_path), "flat", data, started=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: config.teacher.checkpoint: ")
    assert line.endswith("the students have started so and continue")


def test_load_teacher_refuses_a_run_whose_loss_defines_the_predictions(tmp_path):
    save_network(tmp_path, _data(4), losses={"arcface": {}, "cosface": {"weight": 0}})
    with pytest.raises(UserError, match="trained with arcface, whose predictions are not"):
        load_teacher(str(tmp_path), "resnet8", 4)


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
def test_load_teacher_reads_published_names(tmp_path, state_dict, source):
    model, rename = NAMES[source]
    weights = state_dict if model == "resnet8" else prefixed(load(f"model_{model}"), "param")
    expected = import_torch_state_dict(model, weights)
    renamed = {rename(key): value for key, value in weights.items()}
    renamed["n_averaged"] = np.array(3)
    path = _safetensors(tmp_path / "teacher", renamed)
    jax.tree.map(np.testing.assert_array_equal, load_teacher(str(path), model, 10), expected)


def test_load_teacher_prefers_the_student_and_its_averages(tmp_path, state_dict, capsys):
    expected = import_torch_state_dict("resnet8", state_dict)
    zeros = {key: np.zeros_like(value) for key, value in state_dict.items()}
    for kept, other, left_out in (
        ("student.", "teacher.", "teacher"),
        ("ema_model.", "model.", "model"),
        ("module.student.", "module.criterion.", "criterion"),
    ):
        weights = {f"{kept}{key}": value for key, value in state_dict.items()}
        weights |= {f"{other}{key}": value for key, value in zeros.items()}
        path = _safetensors(tmp_path / "teacher", weights)
        jax.tree.map(
            np.testing.assert_array_equal, load_teacher(str(path), "resnet8", 10), expected
        )
        err = capsys.readouterr().err
        assert f"{left_out} is not part of the network and is not read" in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_load_teacher_reads_every_floating_point_type(tmp_path, state_dict, dtype):
    weights = {key: value.astype(dtype) for key, value in state_dict.items()}
    path = _safetensors(tmp_path / "teacher", weights)
    variables = load_teacher(str(path), "resnet8", 10)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    kernel = variables["params"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(kernel, weights["conv1.weight"].astype(np.float32))


def test_load_teacher_names_a_variable_that_is_no_array_of_numbers(tmp_path, state_dict):
    path = _npz(tmp_path / "teacher", {**state_dict, "conv1.weight": np.array("text")})
    with pytest.raises(UserError, match=r"'conv1\.weight' is not an array of numbers"):
        load_teacher(str(path), "resnet8", 10)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool])
def test_load_teacher_refuses_quantised_weights(tmp_path, state_dict, dtype):
    weights = {**state_dict, "conv1.weight": state_dict["conv1.weight"].astype(dtype)}
    path = _npz(tmp_path / "teacher", weights)
    message = rf"teacher\.npz: .*'conv1\.weight' is {np.dtype(dtype)}, not floating point"
    with pytest.raises(UserError, match=message):
        load_teacher(str(path), "resnet8", 10)


@pytest.mark.parametrize(
    ("key", "twin"),
    [
        ("fc.weight", "classifier.0.weight"),
        ("fc.bias", "linear.bias"),
        ("conv1.weight", "module.conv1.weight"),
        ("layer2.0.downsample.0.weight", "layer2.0.shortcut.0.weight"),
    ],
)
def test_load_teacher_refuses_two_names_of_one_array(tmp_path, state_dict, key, twin):
    path = _npz(tmp_path / "teacher", {**state_dict, twin: np.zeros_like(state_dict[key])})
    message = rf"teacher\.npz: .*'{re.escape(key)}' and '{re.escape(twin)}'.* of the same array"
    with pytest.raises(UserError, match=message):
        load_teacher(str(path), "resnet8", 10)


def test_import_torch_state_dict_refuses_keys_that_are_no_names(state_dict):
    with pytest.raises(UserError, match=r"have the key 0; keys must be names such as 'conv1\."):
        import_torch_state_dict("resnet8", dict(enumerate(state_dict.values())))


def test_load_teacher_shows_names_that_it_does_not_know(tmp_path, state_dict):
    names = {f"features.{i}.weight": value for i, value in enumerate(state_dict.values())}
    path = _npz(tmp_path / "teacher", names)
    with pytest.raises(UserError, match=r"'fc\.weight' is missing, but there are 'features\.0\."):
        load_teacher(str(path), "vgg16", 10)
    names["classifier.weight"] = np.zeros((10, 512))
    path = _npz(tmp_path / "teacher", names)
    with pytest.raises(UserError, match=r"'block0\.\S+' is missing, but there are 'features"):
        load_teacher(str(path), "vgg16", 10)


def test_load_teacher_takes_safetensors_first_from_a_folder_of_the_hub(tmp_path, state_dict):
    (tmp_path / "pytorch_model.bin").write_bytes(b"is not read")
    (tmp_path / "config.json").write_text("{}")
    _safetensors(tmp_path / "model", state_dict)
    variables = load_teacher(str(tmp_path), "resnet8", 10)
    expected = import_torch_state_dict("resnet8", state_dict)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    (tmp_path / "model.safetensors").unlink()
    for name in ("model-1-of-2", "model-2-of-2"):
        _safetensors(tmp_path / name, state_dict)
    with pytest.raises(UserError, match=r"several files of weights \(model-1-of-2.safetensors, "):
        load_teacher(str(tmp_path), "resnet8", 10)


def test_find_weights_takes_the_only_file_of_any_format(tmp_path):
    (tmp_path / "log.txt").touch()
    assert pretrained.find_weights(tmp_path) is None
    for name in ("a.ckpt", "b.npz", "best.pth.tar"):
        (tmp_path / name).touch()
        assert pretrained.find_weights(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()
    for name in ("last.pth", "best.pt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"several files of weights \(best\.pt, last\.pth\); name"):
        pretrained.find_weights(tmp_path)
    (tmp_path / "model.bin").touch()
    assert pretrained.find_weights(tmp_path) == tmp_path / "model.bin"


def test_find_weights_takes_weights_in_folders_that_others_name_after_a_step(tmp_path):
    for step in ("100", "200"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "model.safetensors").touch()
    folder = tmp_path / "checkpoints" / "100"
    assert pretrained.find_weights(folder) == folder / "model.safetensors"


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
def test_load_teacher_reads_what_training_scripts_save(tmp_path, state_dict, torch, script):
    ending = {"TGD": ".pth.tar", "Lightning": ".ckpt", "timm": ".bin"}.get(script, ".pth")
    tensors = _tensors(torch, state_dict)
    zeros = OrderedDict((key, torch.zeros_like(value)) for key, value in tensors.items())
    torch.save(SAVED[script](torch, tensors, zeros), tmp_path / f"teacher{ending}")
    variables = load_teacher(str(tmp_path / f"teacher{ending}"), "resnet8", 10)
    expected = import_torch_state_dict("resnet8", state_dict)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_load_teacher_reads_tensors_of_half_precision(tmp_path, state_dict, torch):
    for dtype in (torch.bfloat16, torch.float16):
        tensors = {key: value.to(dtype) for key, value in _tensors(torch, state_dict).items()}
        torch.save(tensors, tmp_path / "teacher.pth")
        variables = load_teacher(str(tmp_path / "teacher.pth"), "resnet8", 10)
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
def test_load_teacher_refuses_what_has_no_names_or_is_code(tmp_path, torch, make, message):
    torch.save(make(torch), tmp_path / "teacher.pth")
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(str(tmp_path / "teacher.pth"), "resnet8", 10)
    assert "torch.save(model.state_dict()" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_load_teacher_names_a_torch_file_that_was_cut(tmp_path, state_dict, torch):
    torch.save(_tensors(torch, state_dict), tmp_path / "teacher.pth")
    data = (tmp_path / "teacher.pth").read_bytes()
    for damaged in (b"", data[: len(data) // 2], b"\xff" * 100):
        (tmp_path / "teacher.pth").write_bytes(damaged)
        with pytest.raises(UserError, match=r"teacher\.pth cannot be read: ."):
            load_teacher(str(tmp_path / "teacher.pth"), "resnet8", 10)
