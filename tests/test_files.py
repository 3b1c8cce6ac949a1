"""Paths that users write, and files that are written whole."""

import errno
import locale
import os
from pathlib import Path

import pytest

from amdjax.errors import UserError
from amdjax.files import (
    cache_folder,
    check_writable,
    is_special,
    local_path,
    not_writable,
    removed_file,
    set_aside,
    write_atomically,
)


def test_local_path_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/x", "--workdir") == tmp_path / "runs" / "x"
    assert not local_path("runs/x", "--workdir").is_absolute()


def test_cache_folder_is_below_xdg_cache_home_or_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "amdjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere" / "amdjax"


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


def test_write_atomically_leaves_the_former_file_after_an_error(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.json", "first")
    names = []

    def fail(_):
        names.append({path.name for path in tmp_path.iterdir()})
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            write_atomically(tmp_path / "a.json", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "first"
    assert names[0] != names[1]  # two processes do not write to one partial file


def test_write_atomically_writes_utf_8_in_every_locale(tmp_path):
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    try:
        write_atomically(tmp_path / "a.csv", "ä\udcff")  # \udcff: the byte 255 in a file name
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert (tmp_path / "a.csv").read_bytes() == "ä\\udcff".encode()


def test_check_writable_names_a_folder_that_cannot_be_created():
    with pytest.raises(UserError, match="cannot write to /dev/null/x: Not a directory"):
        check_writable(Path("/dev/null/x"))


def test_check_writable_names_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="run is a file, not a folder; remove it"):
        check_writable(tmp_path / "run")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free some space there or choose another folder"),
        (errno.EACCES, "Permission denied; change its permissions or choose another folder"),
        (errno.EROFS, "Read-only file system; mount it for writing or choose another folder"),
        (errno.ENOTDIR, "Not a directory; choose another folder"),
        (None, "9 requested and 0 written; choose another folder"),
    ],
)
def test_not_writable_says_what_helps(tmp_path, code, advice):
    raised = OSError(code, os.strerror(code)) if code else OSError("9 requested and 0 written")
    error = not_writable(tmp_path, raised)
    assert str(error) == f"cannot write to {tmp_path}: {advice}"


def test_write_atomically_renames_a_folder_of_that_name(tmp_path, capsys):
    (tmp_path / "a.json").mkdir()
    write_atomically(tmp_path / "a.json", "text")
    assert (tmp_path / "a.json").read_text() == "text"
    assert capsys.readouterr().err.splitlines() == [
        f"note: {tmp_path / 'a.json'} cannot be used; it was renamed to a.json.damaged"
    ]


def test_set_aside_takes_the_first_name_that_is_free(tmp_path):
    for _ in range(3):
        (tmp_path / "a").mkdir()
        set_aside(tmp_path / "a")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.damaged", "a.damaged2", "a.damaged3"]


def test_is_special_is_true_for_pipes_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nothing")
    names = ("pipe", "file", "link", "missing", ".")
    assert [is_special(tmp_path / name) for name in names] == [True, *[False] * 4]


@pytest.mark.parametrize(
    ("error", "is_named"),
    [
        (FileNotFoundError(2, "No such file", "runs/x/run.json"), True),
        (NotADirectoryError(20, "Not a directory", "runs/x/kd/run.json"), True),
        (FileNotFoundError(2, "No such file", "page.html"), False),
        (FileNotFoundError("no file"), False),
        (ValueError('NOT_FOUND: Metadata at local file "{}/runs/x/d" does not exist'), True),
        (ValueError('NOT_FOUND: Metadata at local file "/elsewhere/d" does not exist'), False),
        (ValueError("NOT_FOUND: No registered implementation for FFI custom call"), False),
    ],
)
def test_removed_file_names_files_of_the_folders_only(tmp_path, monkeypatch, error, is_named):
    monkeypatch.chdir(tmp_path)
    if isinstance(error, ValueError):
        error = ValueError(str(error).format(tmp_path))
    wrapped = RuntimeError("while reading")
    wrapped.__cause__ = error
    expected = str(error) if is_named else None
    assert removed_file(wrapped, [Path("runs/x")]) == expected
