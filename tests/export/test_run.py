"""The command `python -m amdjax.export`: every format, its files, its errors."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
import pytest

from amdjax.calibrated import CACHE_FILE
from amdjax.errors import UserError
from amdjax.export import evaluate, export, load_export
from amdjax.export.formats import FORMATS, PLATFORMS
from amdjax.export.run import random_images
from amdjax.export.student import read_student
from amdjax.predict.loaded_models import load_models
from amdjax.trained import TrainedModel, load_run
from amdjax.training.results import RunResult
from amdjax.training.results_file import RESULTS_FILE, write_results
from amdjax.workdir import DataPaths
from tests.registries import temporary_registrations
from tests.tiny_run import QUICK_COMPILATION, ROOT
from tests.trained_run import change, change_run, change_settings, copy

SUFFIXES = [(name, suffix) for name, form in FORMATS.items() for suffix in form.suffixes]
OTHER = {16: {"accuracy": 0.9, "nll": 0.1, "ece": 0.1}}
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workdir(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(trained, tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module", autouse=True)
def _short_measurements() -> Iterator[None]:
    with patch.object(evaluate, "_SECONDS", 0.0):
        yield


def _need(name: str, suffix: str) -> None:
    for module in FORMATS[name].suffixes[suffix]:
        pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.fixture(scope="module")
def exported(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exports the student once to each format; tests that change files must not use it."""

    @functools.cache
    def exported(name: str, suffix: str) -> Path:
        _need(name, suffix)
        file = tmp_path_factory.mktemp(name) / f"student{suffix}"
        assert export(workdir, name, file, method="kd", license_name="mit") <= 1e-4
        return file

    return exported


def _softmax(logits: Any) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits))


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_export_writes_files_that_compute_the_probabilities(
    name, suffix, workdir, exported, monkeypatch
):
    """The code of the model card computes them, and so does `load_export`."""
    file = exported(name, suffix)
    files = {path.name for path in file.parent.iterdir()}
    assert files == {file.name, f"{file.name}.json", f"{file.name}.md"}

    images = random_images(32, (16, 16, 3))  # one shape for all, so that one program is compiled
    expected = _softmax(load_run(workdir / "kd").logits(images))
    student = load_export(file)
    np.testing.assert_allclose(student(images), expected, atol=1e-4)
    for other in (images / np.float32(255), images[:, :8], images[:1].tolist()):
        with pytest.raises(UserError, match=r"^images must be uint8 \[B,16,16,3\] of values from"):
            student(other)
    card = file.with_name(f"{file.name}.md").read_text()
    (code,) = BLOCK.findall(card)
    assert len(code.splitlines()) == 3 + (name == "torch")
    monkeypatch.chdir(file.parent)
    names: dict[str, Any] = {"images": images}
    if name == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")
        from tests.export.torch_resnet import ResNet8

        names = {"images": torch.from_numpy(images), "network": ResNet8(num_classes=4)}
    exec(code, names)
    if name == "torch":
        names["probabilities"] = names["logits"].softmax(1).detach().numpy()
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-4)


def test_export_describes_the_run(workdir, exported):
    file = exported("flax", ".msgpack")
    metadata = json.loads(file.with_name(f"{file.name}.json").read_text())
    run = json.loads((workdir / "kd" / "run.json").read_text())
    assert metadata["settings"] == run["settings"]
    assert metadata["class_names"] == run["data"]["class_names"]
    assert metadata["image_shape"] == [16, 16, 3]
    assert (metadata["method"], metadata["model"], metadata["format"]) == ("kd", "resnet8", "flax")
    card = file.with_name(f"{file.name}.md").read_text()
    block = card.split("---\n")[1]
    assert 'license: "mit"\n' in block
    assert "library_name: flax\n" in block
    result = json.loads((workdir / "results.json").read_text())["methods"]["kd"]["final"]
    assert f"value: {result['accuracy']:.4f}\n" in block
    assert f"| ECE | {100 * result['ece']:.2f} % |" in card
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert yaml.safe_load(block)["tags"][0] == "image-classification"


def test_read_student_takes_everything_from_the_checkpoint(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    settings = json.loads((changed / "kd" / "run.json").read_text())["settings"]
    data = {**settings["data"], "random_resized_crop": True}
    losses = {"arcface": {}, "cosface": {"weight": 0.0}}
    change_settings(changed / "kd", data=data, losses=losses)
    change_run(changed / "kd", imports={"json": json.__file__})
    (changed / "kd" / "run.json").unlink()
    _, metadata = read_student(changed, "kd")
    assert metadata["settings"] == {**settings, "data": data, "losses": losses}
    assert (metadata["imports"], metadata["prediction_rule"]) == (["json"], ["arcface"])
    assert metadata["crop"] == "224/256 of the centre square"  # not that of the last command


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ({0: 16}, True),
        ({0: 16, 1: 16}, True),
        ({0: 4}, False),  # of `max_steps=4`; the checkpoint is of the run that was resumed
        ({1: 16}, False),
    ],
)
def test_read_student_takes_the_results_of_its_checkpoint(steps, found, workdir, tmp_path):
    """They are those of the same method, seed and step."""
    changed = copy(workdir, tmp_path / "run")
    (changed / RESULTS_FILE).unlink()
    data = load_run(changed / "kd").data
    runs = {
        seed: RunResult(
            "resnet8", 100, {step: {"accuracy": 0.25 * (seed + 1), "nll": 1.0, "ece": 0.5}}
        )
        for seed, step in steps.items()
    }
    write_results(changed, data, {"kd": runs, "scratch": {0: RunResult("resnet8", 100, OTHER)}})
    _, metadata = read_student(changed, "kd")
    assert (metadata["seed"], metadata["step"]) == (0, 16)
    results = metadata["results"]
    if found:
        assert results["final"] == {"step": 16, "accuracy": 0.25, "nll": 1.0, "ece": 0.5}
        assert results["seeds"].keys() == {str(seed) for seed in steps}
    else:
        assert results == {}


def test_read_student_ignores_damaged_results(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    run = {"label": "kd", "seed": 0, "selection_split": "test", "best": {}}
    for damaged in (
        *("", "[]", "{}", '{"runs": [1]}', '{"runs": [{"label": "kd"}]}'),
        *(json.dumps({"runs": [{**run, "final": final}]}) for final in (None, {}, 5)),
    ):
        (changed / RESULTS_FILE).write_text(damaged)
        assert read_student(changed, "kd")[1]["results"] == {}, damaged


def test_onnx_file_has_the_metadata(exported):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    model = onnx.load(exported("onnx", ".onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["class_names"]) == ["class_0", "class_1", "class_2", "class_3"]
    assert json.loads(properties["settings"])["model"] == "resnet8"
    assert int(properties["opset"]) == model.opset_import[0].version


def test_calibrated_export_has_the_temperature_of_predict(workdir, images, tmp_path):
    model = load_models(workdir, "kd").models[0]
    assert model.temperature not in (None, 1.0)
    export(workdir, "safetensors", tmp_path / "s.safetensors", method="kd", calibrated=True)
    pixels = random_images(32, (16, 16, 3))
    ours, theirs = model.probabilities(pixels), load_export(tmp_path / "s.safetensors")(pixels)
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    assert np.abs(ours - _softmax(model.network.logits(pixels))).max() > 1e-3


def test_calibrated_export_needs_data_or_a_stored_temperature(workdir, tmp_path, capsys):
    changed = copy(workdir, tmp_path / "run")
    (changed / CACHE_FILE).unlink(missing_ok=True)
    with pytest.raises(UserError, match="the temperature of kd cannot be fitted"):
        export(
            changed, "flax", tmp_path / "s.msgpack", calibrated=True, paths=DataPaths("/dev/null/x")
        )
    assert "kd: not calibrated: " in capsys.readouterr().err
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_export_keeps_the_prediction_rule_of_a_loss(name, workdir, tmp_path):
    suffix = list(FORMATS[name].suffixes)[-1]
    _need(name, suffix)
    changed = copy(workdir, tmp_path / "run")
    change_settings(changed / "kd", losses={"cosface": {"weight": 1.0, "scale": 4.0}})
    file = tmp_path / f"s{suffix}"
    export(changed, name, file)
    pixels = random_images(32, (16, 16, 3))
    expected = _softmax(load_run(changed / "kd").logits(pixels))
    np.testing.assert_allclose(load_export(file)(pixels), expected, atol=1e-4)
    assert np.abs(expected - _softmax(load_run(workdir / "kd").logits(pixels))).max() > 1e-2
    assert "the loss cosface" in (tmp_path / f"{file.name}.md").read_text()


def test_export_of_bfloat16_computes_in_float32(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    change_settings(changed / "kd", dtype="bfloat16")
    export(changed, "safetensors", tmp_path / "s.safetensors")
    pixels = random_images(32, (16, 16, 3))
    expected = _softmax(load_run(workdir / "kd").logits(pixels))
    np.testing.assert_allclose(load_export(tmp_path / "s.safetensors")(pixels), expected, atol=1e-6)


def test_stablehlo_runs_anywhere_in_batches_of_any_size(exported):
    """It has none of the calls to amdjax's kernels for CPU."""
    program = jax.export.deserialize(bytearray(exported("stablehlo", ".stablehlo").read_bytes()))
    assert program.platforms == PLATFORMS
    calls = set(re.findall(r"custom_call @(\w+)", program.mlir_module()))
    assert calls <= {"shape_assertion"}
    (argument,) = program.in_avals
    assert argument.shape[1:] == (16, 16, 3)
    assert not isinstance(argument.shape[0], int)


def test_int8_export_is_smaller_and_as_accurate(workdir, tmp_path, capsys):
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    file, small = tmp_path / "s.onnx", tmp_path / "s.int8.onnx"
    export(workdir, "onnx", file, method="kd", int8=True)
    assert small.stat().st_size < file.stat().st_size / 2
    pixels = random_images(32, (16, 16, 3))
    difference = np.abs(load_export(small)(pixels) - load_export(file)(pixels))
    assert 0 < difference.max() < 0.1
    header, _, *rows = capsys.readouterr().out.split("accuracy %")[1].splitlines()
    assert header.split() == ["MB", "images/s"]
    assert [row.split()[0] for row in rows[:2]] == ["s.onnx", "s.int8.onnx"]
    assert "s.int8.onnx" in (tmp_path / "s.onnx.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "onx"}, "unknown format 'onx'; did you mean onnx"),
        ({"file": "s.txt"}, r"s\.txt: with --to=flax the name must end in \.msgpack"),
        ({"file": "taken.msgpack"}, "taken.msgpack exists already"),
        ({"file": "card.msgpack"}, r"card\.msgpack\.md exists already"),
        ({"file": "data.msgpack"}, r"data\.msgpack\.json exists already"),
        ({"to": "onnx", "file": "q.onnx", "int8": True}, r"q\.int8\.onnx\.json exists already"),
        ({"int8": True}, "int8 needs the format onnx, not flax"),
        ({"method": "kp"}, "unknown method of this workdir 'kp'"),
        ({"method": "teacher", "workdir": "gone"}, "gone is not a folder"),
    ],
)
def test_export_reports_mistakes(arguments, message, workdir, tmp_path):
    taken = {"taken.msgpack", "card.msgpack.md", "data.msgpack.json", "q.int8.onnx.json"}
    for name in taken:
        (tmp_path / name).touch()
    file = tmp_path / arguments.pop("file", "s.msgpack")
    folder = Path(arguments.pop("workdir", workdir))
    with pytest.raises(UserError, match=message):
        export(folder, arguments.pop("to", "flax"), file, **arguments)
    assert {path.name for path in tmp_path.iterdir()} == taken


def test_export_makes_no_folder_before_the_network_is_read(workdir, tmp_path):
    with pytest.raises(UserError, match="unknown method"):
        export(workdir, "flax", tmp_path / "new" / "s.msgpack", method="kp")
    assert not (tmp_path / "new").exists()
    export(workdir, "flax", tmp_path / "new" / "s.msgpack", method="KD")
    assert (tmp_path / "new" / "s.msgpack").exists()


def test_export_of_an_unfinished_training_says_so(workdir, tmp_path, monkeypatch, capsys):
    export(workdir, "flax", tmp_path / "finished.msgpack")
    assert "steps so far" not in capsys.readouterr().err
    monkeypatch.setattr(TrainedModel, "planned_steps", lambda self, max_steps: 1000)
    export(workdir, "flax", tmp_path / "stopped.msgpack")
    assert re.search(r"warning: kd was trained for \d+ of 1,000 steps", capsys.readouterr().err)


def test_export_without_a_checkpoint_says_so(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    (changed / "kd" / "checkpoints").rename(changed / "kd" / "elsewhere")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        export(changed, "flax", tmp_path / "s.msgpack", method="kd")


@pytest.mark.parametrize(("name", "suffix"), [("onnx", ".onnx"), ("torch", ".pth")])
def test_export_names_packages_that_are_missing(name, suffix, workdir, tmp_path):
    with (
        patch.object(importlib.util, "find_spec", return_value=None),
        pytest.raises(UserError, match=rf"{name} \({suffix}\) needs .*: pip install "),
    ):
        export(workdir, name, tmp_path / f"s{suffix}")


def test_export_leaves_nothing_if_probabilities_differ(workdir, tmp_path):
    wrong = FORMATS["flax"]._replace(read=lambda *_: lambda images: np.full((len(images), 4), 0.25))
    with (
        patch.dict(FORMATS, flax=wrong),
        pytest.raises(UserError, match=r"s\.msgpack was not written: its probabilities differ by"),
    ):
        export(workdir, "flax", tmp_path / "s.msgpack")
    assert not list(tmp_path.iterdir())


def test_load_export_needs_the_metadata(workdir, tmp_path):
    export(workdir, "flax", tmp_path / "s.msgpack")
    (tmp_path / "s.msgpack.json").unlink()
    with pytest.raises(UserError, match=r"s\.msgpack\.json is missing"):
        load_export(tmp_path / "s.msgpack")


MINE = """
import amdjax

def negate(outputs, settings):
    return -outputs.logits

@amdjax.register_loss("mine", "a rule", inputs=("student.logits",), logits_fn=negate)
def mine(student):
    return student[:, 0]

@amdjax.register_model("my_net", "a network")
class MyNet(amdjax.models.Model):
    pass
"""


def test_load_export_names_the_modules_that_it_does_not_import(workdir, tmp_path):
    changed, module = copy(workdir, tmp_path / "run"), tmp_path / "mylab.py"
    module.write_text(MINE)
    change_settings(changed / "kd", losses={"mine": {"weight": 1.0}})
    change_run(changed / "kd", imports={"mylab": str(module)})
    file, pixels = tmp_path / "s.msgpack", random_images(32, (16, 16, 3))
    with temporary_registrations():
        export(changed, "flax", file, method="kd")
        expected = load_export(file)(pixels)
    reversed_logits = -load_run(workdir / "kd").logits(pixels)
    np.testing.assert_allclose(expected, _softmax(reversed_logits), atol=1e-6)
    with pytest.raises(UserError, match="the loss 'mine', which is not registered: import mylab"):
        load_export(file)
    change(tmp_path / "s.msgpack.json", model="my_net", prediction_rule=[])
    with pytest.raises(
        UserError, match="the network 'my_net', which is not registered: import mylab"
    ):
        load_export(file)
    assert "mylab" not in sys.modules


def test_export_command_writes_a_file(workdir, tmp_path):
    words = [f"--workdir={workdir}", "--to=safetensors", "--method=teacher", "teacher.safetensors"]
    done = subprocess.run(
        [sys.executable, "-m", "amdjax.export", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILATION},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("teacher: ")
    assert (tmp_path / "teacher.safetensors.md").is_file()
