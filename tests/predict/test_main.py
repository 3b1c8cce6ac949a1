"""The command `python -m amdjax.predict` and its parts."""

import csv
import errno
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

from amdjax import calibrated
from amdjax.analysis import fit_temperature, split_half
from amdjax.calibrated import CACHE_FILE
from amdjax.data import load_dataset
from amdjax.errors import UserError
from amdjax.predict.images import check_any_exists, find_images, overlay_cam, read_images
from amdjax.predict.loaded_models import load_models
from amdjax.predict.output import Predictions, format_table, output_file, write_json
from amdjax.report.evaluate import evaluate_workdir
from amdjax.workdir import DataPaths, read_config, write_config
from tests.tiny_run import QUICK_COMPILATION, ROOT
from tests.trained_run import add_student, change, change_run, change_settings, copy


@pytest.fixture(scope="module")
def workdir(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(trained, tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of images of several sizes and of other files."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (16, 16)), ("a.JPG", (40, 20)), ("more/b.png", (20, 61))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:100])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    return folder


def _predict(cwd: Path, *words: object) -> tuple[int, str, str]:
    process = subprocess.run(
        [sys.executable, "-m", "amdjax.predict", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_COMPILATION},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stdout, process.stderr


def test_predict_command_prints_probabilities_and_writes_cams(workdir, pictures, tmp_path):
    """The command runs on one device; the checkpoints were written with four."""
    missing = tmp_path / "missing.png"
    code, out, err = _predict(tmp_path, f"--workdir={workdir}", "--cam", pictures, missing)
    assert code == 0, err
    names = ["a.JPG", "b.png", "more/b.png"]
    blocks = re.split(r"\n(?=/)", out.strip())
    assert [block.splitlines()[0] for block in blocks] == [str(pictures / name) for name in names]
    _, images = read_images([pictures / name for name in names], 16, False)
    loaded = load_models(workdir)
    for i, block in enumerate(blocks):
        header, *rows = (line.split() for line in block.splitlines()[1:-2])
        assert header == ["kd", "teacher"]
        assert [row[0] for row in rows] == ["1", "2", "3", "4"]
        for column, model in enumerate(loaded.models):
            expected = model.probabilities(images)[i]
            shown = {row[1 + 3 * column]: float(row[2 + 3 * column]) / 100 for row in rows}
            for label, name in enumerate(loaded.class_names):
                np.testing.assert_allclose(shown[name], expected[label], atol=1e-4)
            assert sorted(shown.values(), reverse=True) == list(shown.values())
    left_out, *lines = err.splitlines()
    assert left_out == f"note: {pictures}: left out 1 file without an image suffix: notes.txt"
    assert [line.split(": ")[:2] for line in lines] == [
        ["note", "kd"],
        ["note", "teacher"],
        ["warning", "skipped"],
        ["warning", "skipped"],
    ]
    assert "broken.png" in lines[2]
    assert str(missing) in lines[3]
    drawn = {"a": (384, 768), "b": (384, 384), "b-2": (1171, 384)}
    for stem, size in drawn.items():
        for method in ("kd", "teacher"):
            assert f"  {stem}.cam-{method}.png" in out.splitlines()
            with Image.open(tmp_path / f"{stem}.cam-{method}.png") as picture:
                assert picture.size == size


def test_predict_command_draws_the_student_of_an_ensemble(workdir, pictures, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    teacher = json.loads((changed / "config.json").read_text())["teacher"]
    members = [str(workdir / name) for name in ("teacher", "kd")]
    change(changed / "config.json", teacher={**teacher, "ensemble": members})
    models = zip(members, ("wrn_10_1", "resnet8"), strict=True)
    ensemble = [{"checkpoint": path, "model": model, "weight": 0.5} for path, model in models]
    change_settings(changed / "kd", teacher={"ensemble": ensemble})
    code, out, err = _predict(tmp_path, f"--workdir={changed}", "--cam", pictures / "a.JPG")
    assert code == 0, err
    assert err.count("no Grad-CAM of teacher: an ensemble has no Grad-CAM") == 1
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.cam-kd.png"]
    assert out.splitlines()[1].split() == ["kd", "teacher"]


def test_predict_command_writes_probabilities_from_a_copied_workdir(workdir, pictures, tmp_path):
    """Neither the data set nor the folder where the workdir was trained is needed."""
    loaded = load_models(workdir)  # stores the temperatures
    moved = copy(workdir, tmp_path / "moved")
    data = json.loads((moved / "config.json").read_text())["data"]
    data |= {"data_dir": "/dev/null/missing", "folder": "/dev/null/missing"}
    change(moved / "config.json", data=data)
    files = [pictures / name for name in ("a.JPG", "b.png")]
    _, images = read_images(files, 16, False)
    expected = {model.name: model.probabilities(images) for model in loaded.models}
    code, out, err = _predict(tmp_path, f"--workdir={moved}", "--out=out.csv", *files)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "out.csv"
    predictions = Predictions(loaded)
    for i, file in enumerate(files):
        predictions.add(file, {name: values[i] for name, values in expected.items()})
    write_json(predictions, tmp_path / "out.json")

    content = json.loads((tmp_path / "out.json").read_text())
    assert content["class_names"] == list(loaded.class_names)
    assert content["temperatures"] == {one.name: one.temperature for one in loaded.models}
    assert [image["file"] for image in content["images"]] == [str(file) for file in files]
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(file) for file in files for _ in range(2)]
    for i, image in enumerate(content["images"]):
        assert image["networks"].keys() == expected.keys()
        for name, network in image["networks"].items():
            np.testing.assert_allclose(network["probabilities"], expected[name][i], atol=1e-6)
            label = loaded.class_names[expected[name][i].argmax()]
            (row,) = (r for r in rows if (r["file"], r["network"]) == (image["file"], name))
            assert network["class"] == row["class"] == label
            shown = [float(row[name]) for name in loaded.class_names]
            np.testing.assert_allclose(shown, expected[name][i], atol=1e-6)


def test_output_file_is_json_or_csv(tmp_path):
    assert output_file(f"{tmp_path}/new/x.csv") == tmp_path / "new" / "x.csv"
    with pytest.raises(UserError, match=r"x\.txt: the file must end in \.json or \.csv"):
        output_file("x.txt")


def test_predict_command_reports_errors_in_one_line(workdir, pictures, tmp_path):
    broken = pictures / "broken.png"
    for words, message in (
        ((f"--workdir={workdir}", broken), "error: no image could be read"),
        ((f"--workdir={tmp_path}", broken), "config.json"),
    ):
        code, out, err = _predict(tmp_path, *words)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err


def test_check_any_exists_reports_each_file(pictures, capsys):
    missing = [pictures / "gone.png", Path("x" * 300), pictures / "more"]
    check_any_exists([*missing, pictures / "broken.png"])
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"^no image could be read$"):
        check_any_exists(missing)
    assert capsys.readouterr().err.count("skipped: ") == 3


def test_load_models_fits_the_temperatures_of_the_report_once(workdir, tmp_path, capsys):
    changed = copy(workdir, tmp_path / "run")
    (changed / CACHE_FILE).unlink(missing_ok=True)
    loaded = load_models(changed)
    assert capsys.readouterr().err.count("fitting the temperature on 16 test images") == 2
    report = evaluate_workdir(changed)
    fit, _ = split_half(32)
    for model in loaded.models:
        (result,) = [one for one in report.networks if one.name == model.name]
        expected = fit_temperature(result.logits[fit], report.labels[fit])
        np.testing.assert_allclose(model.temperature, expected, rtol=1e-3)
        probabilities = scipy.special.softmax(result.logits / model.temperature, axis=1)
        ours = model.probabilities(report.images)
        np.testing.assert_allclose(ours, probabilities[report.samples], rtol=1e-3, atol=1e-6)

    data = json.loads((changed / "config.json").read_text())["data"]
    change(changed / "config.json", data={**data, "data_dir": "/dev/null/missing"})
    cached = load_models(changed)  # does not need the data
    assert [one.temperature for one in cached.models] == [one.temperature for one in loaded.models]
    assert cached.class_names == loaded.class_names
    assert capsys.readouterr().err == ""

    for folder in ("checkpoints", "run.json"):
        _replace(changed / "kd" / folder, changed / "teacher" / folder)
    (changed / CACHE_FILE).unlink()
    assert [one.temperature for one in load_models(changed, "kd").models] == [None]
    assert capsys.readouterr().err.count("not calibrated: ") == 1


def _replace(path: Path, other: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(other, path)
    else:
        path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("content", [b"\xff", b'{"kd": null}', b"[]"])
def test_load_models_replaces_damaged_temperatures(workdir, tmp_path, content):
    changed = copy(workdir, tmp_path / "run")
    temperatures = [one.temperature for one in load_models(changed).models]
    (changed / CACHE_FILE).write_bytes(content)
    assert [one.temperature for one in load_models(changed).models] == temperatures
    stored = json.loads((changed / CACHE_FILE).read_text())
    assert sorted(stored.values()) == sorted(temperatures)


def test_load_models_of_a_read_only_workdir_fits_the_temperatures_each_time(
    workdir, tmp_path, monkeypatch, capsys
):
    changed = copy(workdir, tmp_path / "run")
    temperatures = [one.temperature for one in load_models(changed).models]
    (changed / CACHE_FILE).unlink()

    def write(path: Path, text: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(calibrated, "write_atomically", write)
    assert [one.temperature for one in load_models(changed).models] == temperatures
    assert "cannot store the temperatures: [Errno 30] Read-only" in capsys.readouterr().err


def test_load_models_keeps_the_class_names_of_the_training(workdir, tmp_path, capsys):
    changed = copy(workdir, tmp_path / "run")
    (changed / CACHE_FILE).unlink(missing_ok=True)
    config = read_config(changed)
    images = Path(shutil.copytree(config.data.folder, tmp_path / "images"))
    names = sorted(path.name for path in (images / "train").iterdir())
    for split in ("train", "test"):
        (images / split / names[0]).rename(images / split / "renamed")
    config.data.folder = str(images)
    write_config(config, changed)
    loaded = load_models(changed)
    assert loaded.class_names == tuple(names)
    assert [one.temperature for one in loaded.models] == [None, None]
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(
        "warning: kd and teacher: not calibrated: the data have other classes now ("
    )


def test_grad_cam_has_the_size_of_its_layer(workdir):
    student = load_models(workdir).models[0]
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), np.uint8)
    assert student.grad_cam(images, "stem").shape == (32, 16, 16)
    last = student.grad_cam(images, "stage3")
    assert last.shape == (32, 4, 4)
    np.testing.assert_array_equal(student.grad_cam(images), last)
    with pytest.raises(UserError, match="unknown layer 'stage9'"):
        student.grad_cam(images, "stage9")


def test_load_models_does_not_store_temperatures_of_other_images(workdir, images, tmp_path, capsys):
    changed, other = copy(workdir, tmp_path / "run"), copy(images, tmp_path / "other")
    (changed / CACHE_FILE).unlink(missing_ok=True)
    shutil.rmtree(other / "test")
    shutil.copytree(other / "train", other / "test")
    paths = DataPaths(str(tmp_path / "prepared"), str(other))
    models = load_models(changed, "kd", paths).models
    assert all(model.temperature for model in models)
    warning = "warning: kd and teacher: calibrated on other images (test 32 -> 64 images)"
    assert warning in capsys.readouterr().err
    assert not (changed / CACHE_FILE).exists()
    notes = evaluate_workdir(changed, paths).notes
    change_of_images = "from those of training (test 32 -> 64 images)"
    assert f"teacher, kd: evaluated on different test images {change_of_images}" in notes


def test_load_models_finds_the_student(workdir, tmp_path, capsys):
    changed = copy(workdir, tmp_path / "run")
    add_student(changed, "at-seed3", method="at", seed=3)
    change(changed / "config.json", methods=["kd", "at"], seeds=[3, 4])

    def loaded(method: str | None = None) -> list[str]:
        return [one.name for one in load_models(changed, method).models]

    assert loaded() == ["at-seed3", "teacher"] and "warning" not in capsys.readouterr().err
    change(changed / "config.json", methods=["kd", "at", "sp"])
    assert loaded() == ["at-seed3", "teacher"]
    assert "warning: sp has no checkpoint yet; this is at-seed3" in capsys.readouterr().err
    assert loaded("kd") == loaded("KD") == ["kd", "teacher"]
    assert loaded("at") == loaded("at-seed3") == ["at-seed3", "teacher"]
    assert loaded("teacher") == ["teacher"]
    with pytest.raises(UserError, match="unknown method of this workdir 'kp'"):
        loaded("kp")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        loaded("at-seed4")
    shutil.rmtree(changed / "teacher")
    capsys.readouterr()
    assert loaded() == ["at-seed3"]
    assert "without a teacher: " in capsys.readouterr().err


def test_load_models_leaves_out_a_teacher_that_the_student_did_not_learn_from(
    workdir, tmp_path, capsys
):
    changed = copy(workdir, tmp_path / "run")

    def loaded() -> list[str]:
        return [one.name for one in load_models(changed).models]

    teacher = json.loads((changed / "config.json").read_text())["teacher"]
    other = {"name": "resnet8", "checkpoint": str(workdir / "kd")}
    change(changed / "config.json", teacher={**teacher, **other})
    assert loaded() == ["kd", "teacher"]  # that of the workdir
    learned = {"name": "wrn_10_1", "checkpoint": str(workdir / "teacher")}
    change_settings(changed / "kd", teacher=learned)
    assert loaded() == ["kd"]
    message = "without a teacher: the teacher that kd learned from is neither in the workdir nor"
    assert message in capsys.readouterr().err
    change(changed / "config.json", teacher={**teacher, **learned})
    assert loaded() == ["kd", "teacher"]


def test_load_models_refuses_a_network_of_images_that_are_not_square(workdir, tmp_path):
    changed = copy(workdir, tmp_path / "run")
    data = json.loads((changed / "kd" / "run.json").read_text())["data"]
    change_run(changed / "kd", data={**data, "image_shape": [16, 24, 3]})
    with pytest.raises(UserError, match=r"images of 16x24.*load_run\('.*/kd'\)\.logits"):
        load_models(changed)


def test_format_table_has_the_five_best_classes_of_each_network():
    probabilities = {"kd": np.arange(1, 8) / 28, "teacher": np.full(7, 1 / 7)}
    lines = format_table(probabilities, [f"class {i}" for i in range(7)]).splitlines()
    assert lines[0].split() == ["kd", "teacher"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]
    assert lines[1].split() == ["1", "class", "6", "25.00", "%", "class", "0", "14.29", "%"]
    assert lines[0].index("kd") == lines[1].index("class 6")
    assert lines[0].index("teacher") == lines[1].index("class 0")


def test_find_images_expands_folders_and_globs(pictures, monkeypatch, capsys):
    names = ["a.JPG", "b.png", "broken.png", "more/b.png"]
    assert find_images([str(pictures)]) == [pictures / name for name in names]
    assert find_images([str(pictures / "b*.png")]) == [pictures / "b.png", pictures / "broken.png"]
    monkeypatch.chdir(pictures)
    assert find_images(["*.JPG", "b.png", "gone.png"]) == [
        *map(Path, ("a.JPG", "b.png", "gone.png"))
    ]
    for words in ([], [""], ["b.png", ""]):
        with pytest.raises(UserError, match="no images given"):
            find_images(words)
    (pictures / "b.cam-kd.png").write_bytes(b"an overlay of an earlier call")
    (pictures / "more" / "up").symlink_to("..")
    for word in (".", "**"):
        assert find_images([word]) == [Path(name) for name in names]
    assert "left out 1 file that --cam has written: b.cam-kd.png" in capsys.readouterr().err
    (pictures / "front.cam-1.jpg").write_bytes(b"of a camera")
    assert find_images(["f*"]) == [Path("front.cam-1.jpg")]
    assert Path("front.cam-1.jpg") in find_images(["."])
    assert find_images(["**/b.png"]) == [Path("b.png"), Path("more/b.png")]


@pytest.mark.parametrize("word", ["~nobody-of-that-name/x.png", "a**b.png", 300 * "x" + ".png"])
def test_read_images_reports_unreadable_paths(word, capsys):
    (file,) = find_images([word])
    assert read_images([file], 16, False)[0] == []
    assert f"skipped: {word} cannot be read" in capsys.readouterr().err


def test_read_images_resizes_as_for_the_evaluation(images, workdir):
    data = load_dataset(read_config(workdir).data)
    files = sorted((images / "test").glob("*/*.png"))
    read, ours = read_images(files, 16, False)
    assert read == files
    np.testing.assert_array_equal(ours, data.test.read(np.arange(len(files)))[0])


def test_read_images_reports_a_folder_without_images(tmp_path, capsys):
    read, images = read_images([tmp_path], 16, False)
    assert (read, len(images)) == ([], 0)
    assert f"skipped: {tmp_path} is a folder without images" in capsys.readouterr().err


@pytest.mark.parametrize(("imagenet_crop", "inside"), [(False, 1.0), (True, 0.875)])
def test_overlay_cam_covers_the_crop_of_the_network(tmp_path, imagenet_crop, inside):
    file = tmp_path / "wide.png"
    Image.new("RGB", (60, 20), "black").save(file)
    cam = np.zeros((4, 4), np.float32)
    cam[:, :] = np.linspace(0.5, 1.0, 4)  # drawn from dark to bright
    drawn = np.asarray(overlay_cam(file, cam, imagenet_crop), np.float32)
    assert drawn.shape == (384, 1152, 3)
    hot = np.argwhere(drawn.sum(-1) > 60)
    top, left = hot.min(0)
    bottom, right = hot.max(0) + 1
    margin = 384 * (1 - inside) / 2
    np.testing.assert_allclose([top, bottom], [margin, 384 - margin], atol=1)
    np.testing.assert_allclose(right, 768 - margin, atol=1)
    assert left > 384 + margin
