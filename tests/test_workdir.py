"""The config of a workdir is read back, and its data are found again."""

import json

import pytest

from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.trained import restore
from amdjax.workdir import DataPaths, load_data_again, read_config, run_data, write_config
from tests.tiny_run import tiny_config
from tests.trained_run import METHODS, change, copy


@pytest.fixture(scope="module")
def workdir(trained):
    return trained


def test_read_config_returns_the_config_of_the_run(images, workdir):
    config = tiny_config(images, METHODS)
    config.ema_decay = 0.5
    assert read_config(workdir).to_dict() == config.to_dict()
    assert plan_runs(read_config(workdir)) == plan_runs(config)


def test_read_config_gives_newer_settings_their_defaults(workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    del config["seeds_at_once"], config["losses"]["am"]["margin"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path).to_dict() == read_config(workdir).to_dict()


def test_read_config_leaves_out_unknown_settings_with_a_note(workdir, tmp_path, capsys):
    config = json.loads((workdir / "config.json").read_text())
    change(
        copy(workdir, tmp_path / "run") / "config.json", dtypf="x", data={**config["data"], "q": 1}
    )
    assert read_config(tmp_path / "run").to_dict() == read_config(workdir).to_dict()
    assert "has unknown settings: data.q, dtypf" in capsys.readouterr().err


def test_read_config_says_how_to_name_the_module_of_an_unknown_method(workdir, tmp_path):
    change(copy(workdir, tmp_path / "run") / "config.json", methods=["kd", "mine_in_a_notebook"])
    with pytest.raises(UserError, match=r"'mine_in_a_notebook'.*--config\.imports=MODULE$"):
        read_config(tmp_path / "run")


def test_read_config_finds_relative_paths_from_another_folder(images, tmp_path, monkeypatch):
    (tmp_path / "teachers/one").mkdir(parents=True)
    config = tiny_config(images, ("kd",))
    config.data.data_dir, config.data.folder = "prepared", "gone"
    config.teacher.ensemble, config.teacher.ensemble_models = ("teachers/one", "/x"), ("a", "b")
    for name in ("prepared", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    write_config(config, tmp_path / "run")
    assert read_config(tmp_path / "run").to_dict() == config.to_dict()
    monkeypatch.chdir("/")
    there = read_config(tmp_path / "run")
    assert (there.data.data_dir, there.data.folder) == (str(tmp_path / "prepared"), "gone")
    assert there.teacher.ensemble == (str(tmp_path / "teachers/one"), "/x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is not a folder"),
        (lambda path: path.mkdir(), "has no config.json"),
        (
            lambda path: (path.mkdir(), (path / "run.json").write_text("{}")),
            r"is the folder of one run; give --workdir=\S+, and .* also --method=run$",
        ),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("{")), "is damaged"),
        (lambda path: (path.mkdir(), (path / "config.json").write_text("null")), "is damaged"),
        (lambda path: (path.mkdir(), (path / "config.json").write_bytes(b"\xff")), "is damaged"),
        (lambda path: (path / "config.json").mkdir(parents=True), "is damaged"),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"epochs": "many"}')),
            "'epochs'",
        ),
        (
            lambda path: (path.mkdir(), (path / "config.json").write_text('{"methods": [5]}')),
            "unknown method '5'",
        ),
    ],
)
def test_read_config_refuses_other_folders(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "run")


def test_run_data_are_the_images_of_the_run_where_the_config_finds_them(workdir):
    config = read_config(workdir)
    config.data.update({"image_size": 99, "random_resized_crop": True, "data_dir": "moved"})
    data = run_data(config.data, restore(workdir / "kd").settings)
    assert (data.image_size, data.random_resized_crop, data.data_dir) == (16, False, "moved")
    data = run_data(config.data, {}, DataPaths("prepared", "elsewhere"))
    assert (data.image_size, data.data_dir, data.folder) == (99, "prepared", "elsewhere")


def test_run_data_refuses_a_folder_for_another_data_set(workdir):
    data = read_config(workdir).data
    with pytest.raises(UserError, match="for the data set 'folder', and these data are digits"):
        run_data(data, {"data": {"name": "digits"}}, DataPaths(folder="elsewhere"))


def test_load_data_again_asks_for_the_folder_that_is_gone(workdir, tmp_path):
    data = read_config(workdir).data
    assert load_data_again(data).class_names == ("class_0", "class_1", "class_2", "class_3")
    data.folder = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no longer in .*gone; give .* --data_folder$"):
        load_data_again(data)
    data.folder = ""
    with pytest.raises(UserError, match=r"^the images are not found; .* --data_folder$"):
        load_data_again(data)
