"""A run is resumed with the settings, the teacher and the data with which it was started."""

import dataclasses
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from amdjax.checkpoint_files import checkpoint_digest, newest_checkpoint, step_of
from amdjax.comparison import compare_conditions, conditions_of
from amdjax.configs import default, figure9
from amdjax.data import Fingerprint
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.resuming import changed_code, check_data, check_given_teacher, check_resumable
from amdjax.run_description import write_run
from amdjax.run_settings import describe_run
from tests.trained_run import change

CLASSES = ("class_0", "class_1", "class_2", "class_3")
DATA = Fingerprint("folder", CLASSES, (16, 16, 3), {"train": 64, "test": 32})


def _start(config, spec, folder):
    """Makes the folder of a run that has a checkpoint."""
    write_run(describe_run(config, spec, DATA), folder)
    (folder / "checkpoints" / "8").mkdir(parents=True)


def test_check_resumable_compares_the_swept_value(tmp_path):
    config = figure9.get_config()
    _, _, first, second, *_ = plan_runs(config)
    _start(config, first, tmp_path)
    check_resumable(config, first, tmp_path)
    with pytest.raises(UserError, match=r"losses\.am\.margin: saved 1\.1, requested 1\.35"):
        check_resumable(config, second, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("ema_decay", 0.9), ("optim.momentum", 0.8), ("augment.flip", True)]
)
def test_check_resumable_refuses_settings_that_change_numbers(tmp_path, key, value):
    config = figure9.get_config()
    spec = plan_runs(config)[-1]
    _start(config, spec, tmp_path)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"trained with a different config: {key}: saved"):
        check_resumable(config, spec, tmp_path)


def test_check_resumable_accepts_settings_that_change_no_number(tmp_path):
    config = figure9.get_config()
    spec = plan_runs(config)[-1]
    _start(config, spec, tmp_path)
    changes = {"max_steps": 5, "log_every_steps": 1, "data.data_dir": "x", "teacher.cached": False}
    config.update_from_flattened_dict(changes)
    check_resumable(config, spec, tmp_path)


def test_check_resumable_takes_the_default_of_a_setting_that_was_added_later(tmp_path):
    config = figure9.get_config()
    spec = plan_runs(config)[-1]
    _start(config, spec, tmp_path)
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    del settings["sync_batch_norm"], settings["optim"]["beta2"], settings["losses"]["am"]["grid"]
    change(tmp_path / "run.json", settings=settings)
    check_resumable(config, spec, tmp_path)
    config.optim.beta2 = 0.5
    with pytest.raises(UserError, match=r"optim\.beta2: saved 0\.999, requested 0\.5\."):
        check_resumable(config, spec, tmp_path)


def test_check_resumable_accepts_another_name_of_the_same_network(tmp_path):
    config = figure9.get_config()
    config.teacher.name, config.student.name = "wrn_16_3", "wrn_16_1"
    _start(config, plan_runs(config)[-1], tmp_path)
    config.teacher.name, config.student.name = "WRN-16-3", "WRN-16-1"
    check_resumable(config, plan_runs(config)[-1], tmp_path)


def test_check_resumable_accepts_other_settings_where_there_is_no_checkpoint(tmp_path):
    config = figure9.get_config()
    spec = plan_runs(config)[-1]
    write_run(describe_run(config, spec, DATA), tmp_path)
    config.optim.learning_rate /= 2
    check_resumable(config, spec, tmp_path)
    others = Fingerprint("folder", ("zebra",), (16, 16, 3), {"train": 1, "test": 1})
    assert check_data(config, tmp_path, others) is None
    (tmp_path / "run.json").write_text("{")
    check_resumable(config, spec, tmp_path)


def test_check_data_says_what_differs_of_equally_many_images(tmp_path):
    config = figure9.get_config()
    _start(config, plan_runs(config)[-1], tmp_path)
    others = dataclasses.replace(DATA, digest="other")
    with pytest.raises(UserError, match=r"was started \(as many, but others\)"):
        check_data(config, tmp_path, others)


def test_changed_code_names_the_module_and_its_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "code_that_changes.py"
    module.write_text("POWER = 2\n")
    config = default.get_config(imports=("code_that_changes",))
    folders = [tmp_path / name for name in ("kd", "at")]
    for folder in folders:
        folder.mkdir()
        _start(config, plan_runs(config)[-1], folder)
    assert changed_code([*folders, tmp_path / "new"]) == []
    module.write_text("POWER = 16\n")
    assert changed_code(folders) == []  # this process has the former code
    importlib.reload(sys.modules["code_that_changes"])
    default.get_config(imports=("code_that_changes",))
    (sentence,) = changed_code(folders)
    assert sentence.startswith("the code of code_that_changes has changed since these runs were")
    assert "started: kd, at; they continue with the new code" in sentence


def test_check_given_teacher_refuses_one_that_was_trained_on(tmp_path):
    config = figure9.get_config()
    config.teacher.checkpoint = "runs/x/teacher"
    spec = plan_runs(config)[-1]
    first = [{"source": "runs/x/teacher", "step": 4, "digest": "12345678"}]
    then = [{"source": "runs/x/teacher", "step": 8, "digest": "9abcdef0"}]
    write_run(describe_run(config, spec, DATA, first), tmp_path)
    check_given_teacher(tmp_path, then)  # nothing has been learned yet
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    check_given_teacher(tmp_path, first)
    with pytest.raises(UserError, match=r"checkpoint of step 4 in runs/x/teacher, .* of step 8"):
        check_given_teacher(tmp_path, then)


def _checkpoint(folder, content, step=4):
    """Makes the checkpoint of a teacher, and returns the folder's path as a config has it."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "checkpoints" / str(step) / "checksums.json").write_text(json.dumps(content))
    return str(folder)


def _learned(path):
    """Returns the entry of a teacher's checkpoint in the description of a run."""
    checkpoint = newest_checkpoint(Path(path))
    return {"source": path, "step": step_of(checkpoint), "digest": checkpoint_digest(checkpoint)}


def _of_teacher(*paths):
    """Returns the config and the run of a student of one teacher, or of an ensemble."""
    config = figure9.get_config()
    config.methods = ("kd",)
    if len(paths) > 1:
        config.teacher.ensemble, config.teacher.ensemble_models = paths, ("resnet8",) * len(paths)
    else:
        (config.teacher.checkpoint,) = paths
    return config, plan_runs(config)[-1]


def _resume(folder, *paths):
    """Checks that a student may be resumed with these teachers."""
    check_resumable(*_of_teacher(*paths), folder)
    check_given_teacher(folder, [_learned(path) for path in paths if _learned(path)["digest"]])


def _start_student(folder, *paths):
    """Makes the folder of a student that has learned from these teachers."""
    given = [_learned(path) for path in paths if _learned(path)["digest"]]
    (folder / "checkpoints" / "8").mkdir(parents=True)
    write_run(describe_run(*_of_teacher(*paths), DATA, given), folder)


def test_check_resumable_accepts_a_teacher_that_was_moved(tmp_path):
    first = _checkpoint(tmp_path / "first", "a")
    _start_student(tmp_path / "kd", first)
    _resume(tmp_path / "kd", f"{first}/")
    moved = shutil.move(first, tmp_path / "second")
    _resume(tmp_path / "kd", str(moved))
    _resume(tmp_path / "kd", f"{moved}/checkpoints/4")
    config, spec = _of_teacher(str(moved))
    config.optim.momentum = 0.8
    with pytest.raises(UserError) as caught:
        check_resumable(config, spec, tmp_path / "kd")
    assert "optim.momentum: saved 0.9, requested 0.8" in str(caught.value)
    assert "teacher" not in str(caught.value).partition("Choose another")[0]


def test_moved_teacher_is_the_same_condition_of_a_resumed_run(tmp_path):
    conditions = []
    for name in ("first", "second"):
        path = _checkpoint(tmp_path / name, "a")
        run = describe_run(*_of_teacher(path), DATA, [_learned(path)])
        conditions.append(
            {"kd": {0: conditions_of(run.settings, run.data, run.teacher_checkpoints)}}
        )
    before, after = conditions
    assert before["kd"][0]["teacher"]["digest"] == after["kd"][0]["teacher"]["digest"]
    assert compare_conditions({**before, "at": after["kd"]}, "kd") == {}


def test_check_resumable_refuses_another_teacher_at_another_path(tmp_path, monkeypatch):
    first, other = (_checkpoint(tmp_path / name, name) for name in ("first", "other"))
    later = _checkpoint(tmp_path / "later", "first", step=5)
    (tmp_path / "weights.npz").write_bytes(b"")
    _start_student(tmp_path / "kd", first)
    monkeypatch.chdir(first)  # so that "" would be the teacher's folder
    for path in (other, later, str(tmp_path / "weights.npz"), str(tmp_path / "missing"), ""):
        message = re.escape(f"teacher.checkpoint: saved {first!r}, requested {path!r}")
        with pytest.raises(UserError, match=message):
            check_resumable(*_of_teacher(path), tmp_path / "kd")
    with pytest.raises(UserError, match=r"teacher\.ensemble: saved \[\]"):
        check_resumable(*_of_teacher(first, other), tmp_path / "kd")


def test_check_resumable_compares_the_path_of_weights_without_a_digest(tmp_path):
    for name in ("first.npz", "second.npz"):
        (tmp_path / name).write_bytes(b"")
    _start_student(tmp_path / "kd", str(tmp_path / "first.npz"))
    _resume(tmp_path / "kd", str(tmp_path / "first.npz"))
    with pytest.raises(UserError, match=r"teacher\.checkpoint: saved"):
        _resume(tmp_path / "kd", str(tmp_path / "second.npz"))


def test_check_resumable_compares_the_members_of_an_ensemble_in_their_order(tmp_path):
    a, b = (_checkpoint(tmp_path / name, name) for name in "ab")
    weights = str(tmp_path / "weights.npz")
    _start_student(tmp_path / "kd", a, weights, b)
    moved = str(shutil.move(a, tmp_path / "c"))
    _resume(tmp_path / "kd", moved, weights, b)
    for others in ((b, weights, moved), (moved, b, weights), (moved, weights, moved), (moved, b)):
        with pytest.raises(UserError, match=r"teacher\.ensemble: saved"):
            _resume(tmp_path / "kd", *others)


def test_check_given_teacher_refuses_other_content_at_the_same_path(tmp_path):
    a, b = (_checkpoint(tmp_path / name, name) for name in "ab")
    _start_student(tmp_path / "one", a)
    _start_student(tmp_path / "two", a, b)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    for folder, paths in (("one", (a,)), ("two", (a, b))):
        with pytest.raises(UserError, match=f"of step 4 in {a}, which now has another one, of s"):
            _resume(tmp_path / folder, *paths)
    shutil.rmtree(a)
    with pytest.raises(UserError, match=f"of step 4 in {a}, which now has none with checksums"):
        _resume(tmp_path / "one", a)


def test_check_resumable_explains_a_workdir_of_version_0_1(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    config = figure9.get_config()
    with pytest.raises(UserError, match=r"was written by amdjax 0\.1"):
        check_resumable(config, plan_runs(config)[0], tmp_path)
