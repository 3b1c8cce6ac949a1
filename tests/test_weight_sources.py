"""Trained weights that a setting names: the folder of a run, or files of other programs."""

from pathlib import Path

import pytest

from amdjax.errors import UserError
from amdjax.weight_sources import find_run, find_weights


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
        found = find_run(Path(path))
        assert found is not None, path
        assert found.resolve() == run, path
    linked = tmp_path / "elsewhere"
    assert find_run(linked / "checkpoints") == linked
    for path in (exported, exported / "more", tmp_path, tmp_path / "w", tmp_path / "gone"):
        assert find_run(path) is None, path


def test_find_weights_takes_the_only_file_of_any_format(tmp_path):
    (tmp_path / "log.txt").touch()
    assert find_weights(tmp_path) is None
    for name in ("a.ckpt", "b.npz", "best.pth.tar"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path) == tmp_path / name
        (tmp_path / name).unlink()
    for name in ("last.pth", "best.pt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"several files of weights \(best\.pt, last\.pth\); name"):
        find_weights(tmp_path)
    (tmp_path / "model.bin").touch()
    assert find_weights(tmp_path) == tmp_path / "model.bin"


def test_find_weights_takes_weights_in_folders_that_others_name_after_a_step(tmp_path):
    for step in ("100", "200"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "model.safetensors").touch()
    folder = tmp_path / "checkpoints" / "100"
    assert find_weights(folder) == folder / "model.safetensors"
