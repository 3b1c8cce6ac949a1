"""Image files in folders: which are found, and what is left out."""

import os

import pytest

from amdjax.data.image_files import list_images
from amdjax.errors import UserError


def test_list_images_follows_links_and_counts_what_is_left_out(folder, tmp_path, capfd):
    other = tmp_path / "other"
    other.mkdir()
    (folder / "z.png").rename(other / "linked.png")
    (folder / "link").symlink_to(other)
    (folder / "more/loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    names = ["Z.png", "b.png", "link/linked.png", "more/a.JPG", "more/c.png"]
    assert list(list_images(folder, "config.data.unlabeled")) == names
    assert sorted(capfd.readouterr().err.splitlines()) == [
        f"note: {folder}: left out 1 file linking to a folder above: more/loop",
        f"note: {folder}: left out 1 file that cannot hold an image (a pipe, socket or device): "
        "pipe.png",
        f"note: {folder}: left out 1 file without an image suffix: notes.txt",
    ]


def test_list_images_does_not_follow_links_to_folders_above_its_own(folder, tmp_path, capfd):
    (tmp_path / "beside.png").touch()
    (folder / "more/up").symlink_to("../..")
    found = list_images(folder, "config.data.unlabeled")
    assert not any(name.startswith("more/up") for name in found)
    assert "left out 1 file linking to a folder above: more/up" in capfd.readouterr().err


def test_list_images_names_a_broken_link(folder, tmp_path):
    (folder / "more/gone.png").symlink_to(tmp_path / "removed.png")
    message = r"config\.data\.unknown: .*more/gone\.png cannot be read: No such file or directory"
    with pytest.raises(UserError, match=message):
        list_images(folder, "config.data.unknown")
