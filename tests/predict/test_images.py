import os
from pathlib import Path

import pytest

from amdjax.errors import UserError
from amdjax.predict.images import find_images


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_find_images_expands_folders_that_a_pattern_matches(tmp_path, monkeypatch):
    _touch(tmp_path, "flat/b/1.png", "flat/b/deep/2.JPG", "flat/a/0.png", "flat/c.png")
    monkeypatch.chdir(tmp_path)
    names = ["flat/a/0.png", "flat/b/1.png", "flat/b/deep/2.JPG", "flat/c.png"]
    for word in ("flat/*", "flat", "fl?t", "flat/**", str(tmp_path / "flat" / "*")):
        found = find_images([word])
        assert found == [
            tmp_path / name if Path(word).is_absolute() else Path(name) for name in names
        ]
    (tmp_path / "flat" / "empty").mkdir()
    assert find_images(["flat/*"]) == [*map(Path, names), Path("flat/empty")]


def test_find_images_walks_folders_as_for_training(tmp_path, capsys):
    _touch(tmp_path, "x/1.png", "x/notes.txt", "x/.ipynb_checkpoints/2.png", "x/.3.png", "y/4.png")
    (tmp_path / "x" / "linked").symlink_to(tmp_path / "y")
    (tmp_path / "x" / "up").symlink_to(tmp_path / "x")
    expected = [tmp_path / "x" / name for name in ("1.png", "linked/4.png")]
    assert find_images([str(tmp_path / "x")]) == expected
    assert find_images([str(tmp_path / "x*")]) == expected
    assert find_images([str(tmp_path / "x/.ipynb_*")]) == [tmp_path / "x/.ipynb_checkpoints/2.png"]
    err = capsys.readouterr().err
    assert "left out 1 file without an image suffix: notes.txt" in err
    assert "left out 1 file linking to a folder above: up" in err


def test_find_images_names_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be read: Permission denied$"):
        find_images([str(tmp_path)])


def test_find_images_leaves_out_pipes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nothing")
    assert [file.name for file in find_images([str(tmp_path)])] == ["a.png", "c.png"]
