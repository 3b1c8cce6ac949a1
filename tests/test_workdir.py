"""The files of a workdir: its config, its runs and its trained networks are read back."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from amdjax.checkpoint_files import checkpoint_digest, newest_checkpoint, step_of
from amdjax.comparison import compare_conditions, conditions_of
from amdjax.configs import figure9
from amdjax.data import Fingerprint, load_dataset
from amdjax.errors import UserError
from amdjax.experiment import plan_runs
from amdjax.losses.margin_softmax import cosine_logits
from amdjax.metrics import negative_log_likelihood
from amdjax.run_description import read_run, write_run
from amdjax.trained import load_run, restore, restore_all, run_names
from amdjax.workdir import (
    DataPaths,
    check_data,
    check_given_teacher,
    check_resumable,
    describe_run,
    load_data_again,
    read_config,
    run_data,
)
from tests.tiny_run import tiny_config
from tests.trained_run import (
    METHODS,
    add_student,
    change,
    change_run,
    change_settings,
    copy,
    forget_description,
)


@pytest.fixture(scope="module")
def workdir(trained):
    return trained


CLASSES = ("class_0", "class_1", "class_2", "class_3")
DATA = Fingerprint("folder", CLASSES, (16, 16, 3), {"train": 64, "test": 32})


@pytest.fixture(scope="module")
def test_split(workdir):
    test = load_dataset(read_config(workdir).data).test
    return test.read(np.arange(len(test)))


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


@pytest.mark.parametrize("name", ["teacher", "kd"])
def test_restored_network_has_the_nll_of_its_evaluation(workdir, test_split, name):
    network, (images, labels) = restore(workdir / name, 4), test_split
    results = json.loads((workdir / "results.json").read_text())
    final = results["teacher"] if name == "teacher" else results["methods"][name]
    assert network.step == final["final"]["step"] == 16
    assert network.is_teacher == (name == "teacher")
    nll = negative_log_likelihood(network.logits(images), labels)
    np.testing.assert_allclose(nll, final["final"]["nll"], rtol=1e-5)


def test_restored_network_predicts_by_the_logits_of_its_loss(workdir, test_split, tmp_path):
    there = copy(workdir, tmp_path / "run")
    add_student(there, "arcface", losses={"arcface": {"weight": 1.0, "scale": 32.0}})
    network = restore(there / "arcface", 4)
    outputs = network.predictor(network.variables, test_split[0])
    expected = cosine_logits(outputs.embedding, outputs.class_weights, 32.0)
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-5)


def test_restored_networks_of_one_definition_share_a_predictor(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    mean = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    add_student(there, "at", losses={"ce": {}, "at": {}})
    add_student(there, "cosface", losses={"cosface": {}})
    settings = json.loads((there / "kd" / "run.json").read_text())["settings"]
    add_student(there, "black", augment={**settings["augment"], **mean})
    kd, at, cosface, black = (
        restore(there / name, 4).predictor for name in ("kd", "at", "cosface", "black")
    )
    assert kd == at
    assert hash(kd) == hash(at)
    assert kd not in (cosface, black)


def test_restore_takes_the_ema_where_there_is_one(workdir):
    folder = workdir / "kd" / "checkpoints" / "16" / "default"
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(folder.absolute())
    variables = restore(workdir / "kd", 4).variables
    jax.tree.map(np.testing.assert_array_equal, variables, state["ema"])
    last, mean = (tree["params"]["fc"]["kernel"] for tree in (state, variables))
    assert np.abs(last - mean).max() > 1e-6


def test_restore_all_orders_networks_and_skips_twins(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    for name, seed in (("at-seed3", 3), ("at", 0)):
        add_student(there, name, method="at", seed=seed)
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert [(n.method, n.seed) for n in networks[-2:]] == [("at", 0), ("at", 3)]
    assert missing == []
    copy(there / "at", there / "at-seed0")
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher", "kd", "at", "at-seed3"]
    assert missing == ["at-seed0: skipped: at has the same method and seed"]


def test_restore_all_reports_missing_networks(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    change(there / "config.json", methods=["scratch", "kd", "eskd"])
    for file in (there / "kd" / "checkpoints").glob("*/checksums.json"):
        file.write_bytes(b"")
    change_settings(there / "teacher", epochs=5)
    networks, missing = restore_all(there, read_config(there), read_run(there / "teacher").data)
    assert [network.name for network in networks] == ["teacher"]
    sentences = dict(sentence.split(": ", 1) for sentence in missing)
    assert sentences.keys() == {"teacher_early", "scratch", "kd", "eskd", "teacher"}
    assert "has no checkpoint yet" in sentences["scratch"]
    assert "holds no complete checkpoint" in sentences["kd"]
    assert sentences["teacher"] == "trained for 16 of 40 steps so far"
    assert all(len(sentence.splitlines()) == 1 for sentence in missing)


def test_restore_all_prefers_an_imported_teacher(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    config = read_config(there)
    config.teacher.checkpoint = str(workdir / "teacher")
    assert run_names(there, config) == ["kd"]
    config.teacher.checkpoint, config.teacher.outputs = "", "outputs.npz"
    assert run_names(there, config) == ["kd"]
    config.teacher.checkpoint, config.teacher.outputs = str(workdir / "teacher"), ""
    networks, missing = restore_all(there, config, read_run(there / "kd").data)
    assert (networks[0].name, networks[0].step, networks[0].length) == ("teacher", 0, None)
    assert missing == []
    config.teacher.checkpoint = str(tmp_path / "nothing")
    networks, missing = restore_all(there, config, read_run(there / "kd").data)
    assert [network.name for network in networks] == ["kd"]
    assert len(missing) == 1
    assert "nothing does not exist" in missing[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "run.json").write_text("{"), "run.json is damaged"),
        (lambda folder: (folder / "run.json").write_text("{}"), "run.json is damaged"),
        (lambda folder: (folder / "run.json").write_bytes(b"\xff"), "run.json is damaged"),
        (lambda folder: (folder / "run.json").unlink(), "run.json is damaged"),
        (lambda folder: change(folder / "run.json", settings={}), "run.json is damaged"),
        (lambda folder: change(folder / "run.json", data=None), "run.json is damaged"),
    ],
)
def test_restore_refuses_a_damaged_run_without_another_description(
    workdir, tmp_path, spoil, message
):
    folder = copy(workdir / "kd", tmp_path / "kd")
    forget_description(folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        restore(folder, 4)


def test_restore_reads_checkpoints_without_checksums(workdir, tmp_path):
    folder = copy(workdir / "kd", tmp_path / "kd")
    forget_description(folder)
    ours, theirs = restore(folder), restore(workdir / "kd")
    assert (ours.label, ours.step, ours.predictor) == (theirs.label, theirs.step, theirs.predictor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": None}, "run.json is damaged"),
        ({"epoch_fraction": "all"}, "run.json is damaged"),
        ({"model": "resnet14"}, "does not match resnet14"),
    ],
)
def test_restore_refuses_other_settings(workdir, tmp_path, settings, message):
    folder = copy(workdir / "kd", tmp_path / "kd")
    change_settings(folder, **settings)
    with pytest.raises(UserError, match=message):
        restore(folder, 4)


def test_restore_refuses_other_classes(workdir):
    with pytest.raises(UserError, match="has 4 classes, the data set 5"):
        restore(workdir / "kd", 5)


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


def test_load_run_needs_the_folder_of_a_run(workdir):
    for folder, message in (
        (workdir / "nowhere", "load_run: .*nowhere does not exist$"),
        (workdir, "is a workdir; name one of its runs: "),
    ):
        with pytest.raises(UserError, match=message):
            load_run(folder)


def test_load_run_reads_a_network_without_its_data(workdir):
    network = load_run(str(workdir / "kd"))
    assert (network.method, network.label, network.seed, network.teacher) == (
        *("kd", "kd", 0, "teacher"),
    )
    assert network.logits(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 4)
    with pytest.raises(UserError, match="images must be uint8 from 0 to 255, not float32"):
        network.logits(np.zeros((2, 16, 16, 3), np.float32))


def test_run_spec_keeps_method_seed_and_sweep_as_data(workdir, tmp_path):
    there = copy(workdir, tmp_path / "run")
    sweep = {"key": "losses.kd.weight", "value": 0.5}
    change_run(there / "kd", seed=7, sweep=sweep)
    network = restore(there / "kd", 4)
    assert (network.label, network.seed) == ("kd-weight=0.5", 7)
    assert (network.sweep_key, network.sweep_value) == ("losses.kd.weight", 0.5)


def _start(config, spec, folder):
    """Makes the folder of a run that has a checkpoint."""
    write_run(describe_run(config, spec, DATA), folder)
    (folder / "checkpoints" / "8").mkdir(parents=True)


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
    assert load_data_again(data).class_names == DATA.class_names
    data.folder = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no longer in .*gone; give .* --data_folder$"):
        load_data_again(data)
    data.folder = ""
    with pytest.raises(UserError, match=r"^the images are not found; .* --data_folder$"):
        load_data_again(data)


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


@pytest.mark.parametrize("ensemble", [False, True])
def test_descriptions_of_earlier_versions_have_the_names_of_the_registry(tmp_path, ensemble):
    config = figure9.get_config()
    config.student.name, config.teacher.name = "wrn_16_1", "wrn_16_3"
    if ensemble:
        config.teacher.ensemble, config.teacher.ensemble_models = ("a", "b"), ("resnet20", "mine")
    spec = plan_runs(config)[-1]
    _start(config, spec, tmp_path)
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    settings["model"] = "WRN-16-1"
    if ensemble:
        settings["teacher"]["ensemble"][0]["model"] = "ResNet-20"
    else:
        settings["teacher"]["name"] = "WRN-16-3"
    change(tmp_path / "run.json", settings=settings)
    check_resumable(config, spec, tmp_path)
    assert (read_run(tmp_path).model, read_run(tmp_path).data) == ("wrn_16_1", DATA)
    change(tmp_path / "run.json", settings={**settings, "model": "My-Network"})
    assert read_run(tmp_path).model == "My-Network"


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
    run = json.loads((tmp_path / "run.json").read_text())
    del run["given_teacher"]  # as in earlier versions
    (tmp_path / "run.json").write_text(json.dumps(run))
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


def test_restore_all_skips_networks_of_other_classes(workdir):
    names = ("class_0", "class_1", "class_2", "zebra")
    data = Fingerprint("folder", names, (16, 16, 3), {"train": 64, "test": 32})
    networks, notes = restore_all(workdir, read_config(workdir), data)
    assert networks == []
    assert len(notes) == 2
    assert all("missing: 'class_3'; new: 'zebra'" in note for note in notes)
