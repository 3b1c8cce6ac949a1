"""Paths that users write, and files that are written whole."""

from pathlib import Path

import pytest

from amdjax.errors import UserError
from amdjax.files import check_writable, local_path, write_atomically


def test_local_path_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/x", "--workdir") == tmp_path / "runs" / "x"
    assert not local_path("runs/x", "--workdir").is_absolute()


@pytest.mark.parametrize("text", ["gs://bucket/runs", "s3://bucket/runs"])
def test_local_path_refuses_urls(text):
    with pytest.raises(UserError, match=f"--workdir={text} is a URL"):
        local_path(text, "--workdir")


def test_local_path_without_a_home_folder_asks_for_the_whole_path():
    with pytest.raises(UserError, match=r"data_dir=~nobody_of_this_name/x: .*whole path"):
        local_path("~nobody_of_this_name/x", "config.data.data_dir")


def test_write_atomically_leaves_no_partial_file(tmp_path):
    for text in ("first", "second"):
        write_atomically(tmp_path / "a.json", text)
        assert (tmp_path / "a.json").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_check_writable_names_a_folder_that_cannot_be_created():
    with pytest.raises(UserError, match="cannot write to /dev/null/x: Not a directory"):
        check_writable(Path("/dev/null/x"))
