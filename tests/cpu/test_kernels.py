"""Compilation of the C++ kernels and the folder that they are kept in."""

import subprocess
import warnings
from pathlib import Path

import pytest

from amdjax.cpu import kernels


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch):
    """`kernels.available` and the cache folder, without the results of earlier calls."""
    monkeypatch.setattr(kernels, "_library_folder", kernels._library_folder.__wrapped__)
    return kernels.available.__wrapped__


def test_available_without_a_compiler_is_false_without_a_warning(available, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not available()


def test_available_names_a_compiler_that_is_not_there(available, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match=r"CXX=no-such-compiler is not the path of a compiler"):
        assert not available()


def test_available_with_a_failing_compiler_is_false_with_a_warning(
    available, monkeypatch, tmp_path: Path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.warns(UserWarning, match=r"kernels.cc cannot be compiled, training on CPU is slow"):
        assert not available()
    assert not list((tmp_path / "amdjax").iterdir())


def test_available_compiles_into_the_cache_folder_of_the_user_once(
    available, monkeypatch, tmp_path: Path
):
    if not kernels.available():
        pytest.skip("no C++ compiler was found")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = []

    def compile_nothing(command: list[str], **settings):
        compiled.append(command)
        Path(command[command.index("-o") + 1]).touch()

    monkeypatch.setattr(subprocess, "run", compile_nothing)
    first, second = kernels._library("c++"), kernels._library("c++")
    assert first == second
    assert first.parent == tmp_path / "amdjax"
    assert list(first.parent.iterdir()) == [first]
    assert len(compiled) == 1
    assert kernels._library("other-c++") != first


def test_cache_folder_is_below_the_home_folder_without_xdg_cache_home(
    available, monkeypatch, tmp_path: Path
):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernels._library_folder() == tmp_path / ".cache" / "amdjax"


def test_cache_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(
    available, monkeypatch, tmp_path: Path
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = kernels._library_folder()
    assert folder.is_dir()
    assert tmp_path not in folder.parents
