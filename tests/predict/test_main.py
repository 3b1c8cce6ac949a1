"""The command as a user types it, and the parts that it is made of."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

from amdjax.analysis import fit_temperature, split_half
from amdjax.config import read_config
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.predict.classifier import CACHE_FILE, load_models
from amdjax.predict.images import find_images, overlay_cam, read_images
from amdjax.report.evaluate import collect
from tests.tiny_run import QUICK_COMPILATION, ROOT
from tests.trained_run import add_student, change, copy, trained


@pytest.fixture(scope="module")
def workdir(images, tmp_path_factory):
    return copy(trained(images), tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def pictures(tmp_path):
    """Images of several sizes, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (16, 16)), ("a.JPG", (40, 20)), ("more/b.png", (20, 61))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:100])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def _predict(cwd, *words):
    process = subprocess.run(
        [sys.executable, "-m", "amdjax.predict", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILATION},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stdout, process.stderr


def test_the_command(workdir, pictures, tmp_path):
    """On one device, with checkpoints that four have written."""
    missing = tmp_path / "missing.png"
    code, out, err = _predict(tmp_path, f"--workdir={workdir}", "--cam", pictures, missing)
    assert code == 0, err
    names = ["a.JPG", "b.png", "more/b.png"]
    blocks = re.split(r"\n(?=/)", out.strip())
    assert [block.splitlines()[0] for block in blocks] == [str(pictures / name) for name in names]
    _, images = read_images([pictures / name for name in names], 16, False)
    classifiers = load_models(workdir)
    for i, block in enumerate(blocks):
        header, *rows = (line.split() for line in block.splitlines()[1:-2])
        assert header == ["kd", "teacher"]
        assert [row[0] for row in rows] == ["1", "2", "3", "4"]
        for column, network in enumerate(classifiers.networks):
            expected = network.probabilities(images)[i]
            shown = {row[1 + 3 * column]: float(row[2 + 3 * column]) / 100 for row in rows}
            for label, name in enumerate(classifiers.class_names):
                np.testing.assert_allclose(shown[name], expected[label], atol=1e-4)
            assert sorted(shown.values(), reverse=True) == list(shown.values())
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["kd", "teacher", "skipped", "skipped"]
    assert "broken.png" in lines[2]
    assert str(missing) in lines[3]
    drawn = {"a": (384, 768), "b": (384, 384), "b-2": (1171, 384)}
    for stem, size in drawn.items():
        for method in ("kd", "teacher"):
            assert f"  {stem}.cam-{method}.png" in out.splitlines()
            with Image.open(tmp_path / f"{stem}.cam-{method}.png") as picture:
                assert picture.size == size


def test_mistakes_get_one_line_and_exit_code_2(workdir, pictures, tmp_path):
    broken = pictures / "broken.png"
    for words, message in (
        ((f"--workdir={workdir}", broken), "error: none of the 1 image(s) could be read"),
        ((f"--workdir={tmp_path}", broken), "holds no config.json"),
    ):
        code, out, err = _predict(tmp_path, *words)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err


def test_temperatures_are_the_reports_and_are_kept(workdir, tmp_path, capsys):
    there = copy(workdir, tmp_path / "run")
    (there / CACHE_FILE).unlink(missing_ok=True)
    classifiers = load_models(there)
    assert capsys.readouterr().err.count("fitting the temperature on 16 test images") == 2
    study = collect(there)
    fit, _ = split_half(32, 0)
    for classifier in classifiers.networks:
        (network,) = [one for one in study.networks if one.name == classifier.name]
        expected = fit_temperature(network.logits[fit], study.labels[fit])
        np.testing.assert_allclose(classifier.temperature, expected, rtol=1e-3)
        probabilities = scipy.special.softmax(network.logits / classifier.temperature, axis=1)
        shown = classifier.probabilities(study.images)
        np.testing.assert_allclose(shown, probabilities[study.shown], rtol=1e-3, atol=1e-6)

    data = json.loads((there / "config.json").read_text())["data"]
    change(there / "config.json", data={**data, "data_dir": "/dev/null/nothing"})
    again = load_models(there)  # the data are not needed any more
    assert [one.temperature for one in again.networks] == [
        one.temperature for one in classifiers.networks
    ]
    assert again.class_names == classifiers.class_names
    assert capsys.readouterr().err == ""

    shutil.rmtree(there / "kd")
    copy(there / "teacher", there / "kd")  # other weights in the same folder
    with pytest.raises(UserError, match="/dev/null/nothing"):
        load_models(there)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"\xff"),
        lambda path: change(path, temperatures=None),
        lambda path: change(path, temperatures={"kd": {}, "teacher": {"digest": "x"}}),
        lambda path: (path.unlink(), path.mkdir()),  # where nothing can be kept
    ],
)
def test_what_is_kept_is_not_needed(workdir, tmp_path, spoil, capsys):
    there = copy(workdir, tmp_path / "run")
    temperatures = [one.temperature for one in load_models(there).networks]
    spoil(there / CACHE_FILE)
    again = load_models(there)
    assert [one.temperature for one in again.networks] == temperatures
    kept = (there / CACHE_FILE).is_file()
    assert kept != ("the temperatures are not kept" in capsys.readouterr().err)


def test_grad_cam_at_any_place(workdir):
    classifier = load_models(workdir).networks[0]
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)
    sides = {"stem": 16, "stage1": 16, "stage2": 8, "stage3": 4}
    for layer, side in sides.items():
        assert classifier.grad_cam(images, layer).shape == (32, side, side)
    np.testing.assert_array_equal(
        classifier.grad_cam(images), classifier.grad_cam(images, "stage3")
    )
    with pytest.raises(UserError, match="unknown layer 'stage9'"):
        classifier.grad_cam(images, "stage9")


def test_which_student_is_asked(workdir, tmp_path, capsys):
    there = copy(workdir, tmp_path / "run")
    add_student(there, "at-seed3", seed=3)
    change(there / "config.json", methods=["kd", "at"], seeds=[3, 4])

    def asked(method=None):
        return [one.name for one in load_models(there, method).networks]

    assert asked() == ["at-seed3", "teacher"]
    change(there / "config.json", methods=["kd", "at", "sp"])  # the last is not there yet
    assert asked() == ["at-seed3", "teacher"]
    assert asked("kd") == ["kd", "teacher"]
    assert asked("at") == asked("at-seed3") == ["at-seed3", "teacher"]
    assert asked("teacher") == ["teacher"]
    with pytest.raises(UserError, match="unknown method of this workdir 'kp'"):
        asked("kp")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        asked("at-seed4")
    shutil.rmtree(there / "teacher")
    capsys.readouterr()
    assert asked() == ["at-seed3"]
    assert "without a teacher: " in capsys.readouterr().err


def test_files_folders_and_globs(pictures, monkeypatch):
    names = ["a.JPG", "b.png", "broken.png", "more/b.png"]
    assert find_images([str(pictures)]) == [pictures / name for name in names]
    assert find_images([str(pictures / "b*.png")]) == [pictures / "b.png", pictures / "broken.png"]
    monkeypatch.chdir(pictures)
    assert find_images(["*.JPG", "b.png", "gone.png"]) == [
        *map(Path, ("a.JPG", "b.png", "gone.png"))
    ]
    for words in ([], [""], ["b.png", ""]):
        with pytest.raises(UserError, match="no image is given"):
            find_images(words)
    (pictures / "b.cam-kd.png").write_bytes(b"an overlay of an earlier call")
    assert find_images(["."]) == [Path(name) for name in names]


@pytest.mark.parametrize("word", ["~nobody-of-that-name/x.png", "a**b.png", 300 * "x" + ".png"])
def test_words_that_are_no_files_are_named(word, capsys):
    (file,) = find_images([word])
    assert read_images([file], 16, False)[0] == []
    assert f"skipped: {word} cannot be read" in capsys.readouterr().err


def test_images_are_resized_as_for_the_evaluation(images, workdir):
    data = load_dataset(read_config(workdir).data)
    files = sorted((images / "test").glob("*/*.png"))
    read, ours = read_images(files, 16, False)
    assert read == files
    np.testing.assert_array_equal(ours, data.test.read(np.arange(len(files)))[0])


def test_a_folder_without_images_is_named(tmp_path, capsys):
    read, images = read_images([tmp_path], 16, False)
    assert (read, len(images)) == ([], 0)
    assert f"skipped: {tmp_path} holds no image" in capsys.readouterr().err


@pytest.mark.parametrize(("tight_crop", "inside"), [(False, 1.0), (True, 0.875)])
def test_heat_lies_where_the_network_looked(tmp_path, tight_crop, inside):
    file = tmp_path / "wide.png"
    Image.new("RGB", (60, 20), "black").save(file)
    cam = np.zeros((4, 4), np.float32)
    cam[:, :] = np.linspace(0.5, 1.0, 4)  # the least evidence is cold, the most is hot
    drawn = np.asarray(overlay_cam(file, cam, tight_crop), np.float32)
    assert drawn.shape == (384, 1152, 3)
    hot = np.argwhere(drawn.sum(-1) > 60)
    top, left = hot.min(0)
    bottom, right = hot.max(0) + 1
    margin = 384 * (1 - inside) / 2
    np.testing.assert_allclose([top, bottom], [margin, 384 - margin], atol=1)
    np.testing.assert_allclose(right, 768 - margin, atol=1)
    assert left > 384 + margin
