"""The lock of a workdir: refused while its owner lives, taken over when the owner has ended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from amdjax import workdir_lock
from amdjax.errors import UserError
from amdjax.workdir_lock import LOCK_FILE, WorkdirLock
from tests.tiny_run import ROOT

HOLD = """
import sys, time
from pathlib import Path
from amdjax.workdir_lock import WorkdirLock
with WorkdirLock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch):
    """Renewals every 50 ms, and an owner that is silent for 1.5 s counts as dead."""
    monkeypatch.setattr(workdir_lock, "_RENEW_SECONDS", 0.05)
    monkeypatch.setattr(workdir_lock, "_RESTORE_SECONDS", 0.05)
    monkeypatch.setattr(workdir_lock, "_STALE_SECONDS", 1.5)


@pytest.fixture
def hold():
    """Starts processes that hold the lock of a folder."""
    processes = []

    def hold(folder):
        words = [sys.executable, "-c", HOLD, str(folder)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def _change(folder, *, silent=0.0, **values):
    """Changes what a lock says about its owner, and when it was renewed."""
    path = folder / LOCK_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    os.utime(path, (time.time() - silent,) * 2)


def _leave(folder, **values):
    """Leaves a lock like that of a command that ended without releasing it."""
    with WorkdirLock(folder):
        text = (folder / LOCK_FILE).read_text()
    (folder / LOCK_FILE).write_text(text)
    _change(folder, **values)


def _names(folder):
    return [path.name for path in folder.iterdir()]


def _wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lock_is_released_at_the_end_and_after_an_error(tmp_path):
    for error in (None, ValueError):
        try:
            with WorkdirLock(tmp_path / "run") as lock:
                lock.check()
                assert _names(tmp_path / "run") == [LOCK_FILE]
                if error:
                    raise error
        except ValueError:
            pass
        assert _names(tmp_path / "run") == []


def test_lock_refuses_a_second_command_and_names_the_first(tmp_path):
    with WorkdirLock(tmp_path) as lock:
        owner = json.loads((tmp_path / LOCK_FILE).read_text())
        with pytest.raises(UserError) as caught, WorkdirLock(tmp_path):
            pass
        for value in (f"process {os.getpid()}", owner["host"], owner["since"], "--workdir"):
            assert value in str(caught.value)
        lock.check()
        assert json.loads((tmp_path / LOCK_FILE).read_text()) == owner


def test_lock_of_a_killed_process_is_taken_over(tmp_path, hold, capsys):
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {process.pid} on"):
        WorkdirLock(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)  # not waited for, so that a zombie is left
    _wait(lambda: workdir_lock._process_state(process.pid)[0] == "Z")
    with WorkdirLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    out = capsys.readouterr().out
    assert out.startswith(f"took over {tmp_path} from process {process.pid} on ")
    assert out.endswith("which has ended\n")
    assert len(out.splitlines()) == 1
    assert _names(tmp_path) == []


def test_lock_of_a_process_whose_id_was_given_again_is_taken_over(tmp_path, capsys):
    _leave(tmp_path, started=1)  # this process has its id, but started later
    with WorkdirLock(tmp_path):
        pass
    assert f"from process {os.getpid()} on" in capsys.readouterr().out


def test_lock_of_another_machine_is_taken_over_when_it_is_old(tmp_path, capsys):
    _leave(tmp_path, machine="other", host="node7", silent=90)
    with WorkdirLock(tmp_path):
        pass
    out = capsys.readouterr().out
    assert "on node7" in out
    assert "has not renewed it for 90 s" in out
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("silent", [0.0, -60.0])  # or stamped before a clock was set back
def test_lock_of_another_machine_is_taken_over_when_it_is_not_renewed(
    tmp_path, quick, capsys, silent
):
    _leave(tmp_path, machine="other", silent=silent)
    with WorkdirLock(tmp_path):
        pass
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"cannot be seen from here; waiting up to [0-2] s", first)
    assert "has not renewed it" in second


def test_lock_of_another_machine_is_respected_while_it_is_renewed(tmp_path, quick, monkeypatch):
    with WorkdirLock(tmp_path):
        monkeypatch.setattr(workdir_lock, "_machine", lambda: "other")
        with pytest.raises(UserError, match="is in use by process"):
            WorkdirLock(tmp_path).__enter__()


@pytest.mark.parametrize("text", ["", "[]", '{"pid": "x"}', "\xff"])
def test_damaged_lock_is_taken_over_when_it_is_old(tmp_path, text, capsys):
    (tmp_path / LOCK_FILE).write_text(text, encoding="latin-1")
    os.utime(tmp_path / LOCK_FILE, (0, 0))
    with WorkdirLock(tmp_path):
        pass
    assert "from another command" in capsys.readouterr().out


def test_lock_is_given_to_one_of_several_that_take_it_over(tmp_path):
    _leave(tmp_path, started=1)
    first, second = WorkdirLock(tmp_path), WorkdirLock(tmp_path)
    stale = workdir_lock._read(tmp_path / LOCK_FILE)
    with first:  # between the second's look at the stale lock and its removal
        assert not second._remove(*stale)
        assert not second._create()
        first.check()
    assert _names(tmp_path) == []


def test_lock_that_is_being_written_is_not_taken_for_the_damaged_one(tmp_path):
    path = tmp_path / LOCK_FILE
    path.write_text("")
    os.utime(path, (0, 0))
    damaged = workdir_lock._read(path)
    path.unlink()
    path.write_text("")  # by another command, which has not written its name yet
    assert not WorkdirLock(tmp_path)._remove(*damaged)
    assert _names(tmp_path) == [LOCK_FILE]


def test_lock_that_was_moved_by_mistake_does_not_replace_a_third(tmp_path, monkeypatch):
    _leave(tmp_path, started=1)
    stale = workdir_lock._read(tmp_path / LOCK_FILE)
    _change(tmp_path, pid=7)  # a second command has taken it over

    def read(path):
        (tmp_path / LOCK_FILE).write_text("third")
        return original(path)

    original = workdir_lock._read
    monkeypatch.setattr(workdir_lock, "_read", read)
    assert not WorkdirLock(tmp_path)._remove(*stale)
    assert (tmp_path / LOCK_FILE).read_text() == "third"
    assert _names(tmp_path) == [LOCK_FILE]


def test_owner_tolerates_that_its_lock_is_moved_for_a_moment(tmp_path, monkeypatch):
    with WorkdirLock(tmp_path) as lock:
        aside = (tmp_path / LOCK_FILE).rename(tmp_path / "aside")
        monkeypatch.setattr(time, "sleep", lambda _: aside.rename(tmp_path / LOCK_FILE))
        lock._note_loss()
        lock.check()


def test_lock_is_released_if_it_cannot_be_entered(tmp_path, monkeypatch):
    def fail(name):
        raise KeyboardInterrupt

    lock = WorkdirLock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(workdir_lock.distributed, "wait_for_all", fail)
        with pytest.raises(KeyboardInterrupt):
            lock.__enter__()
    assert _names(tmp_path) == []
    assert not lock._thread.is_alive()


def test_lock_removes_what_killed_commands_left(tmp_path, monkeypatch):
    left = tmp_path / f"{LOCK_FILE}.node7.3"
    left.write_text("")
    os.utime(left, (0, 0))
    with WorkdirLock(tmp_path):
        assert left.exists()  # may be a lock that a running command has moved a moment ago
    later = time.time() + 90
    monkeypatch.setattr(workdir_lock, "_file_system_time", lambda folder: later)
    with WorkdirLock(tmp_path):
        assert _names(tmp_path) == [LOCK_FILE]


def test_owner_renews_its_lock(tmp_path, quick):
    with WorkdirLock(tmp_path) as lock:
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        _wait(lambda: (tmp_path / LOCK_FILE).stat().st_mtime > 0)
        lock.check()


def test_owner_notices_that_its_lock_was_taken_over(tmp_path, quick):
    with WorkdirLock(tmp_path) as lock:
        _change(tmp_path, host="node7", pid=3)
        _wait(lambda: lock._lost)
        with pytest.raises(UserError, match=r"was taken over by process 3 on node7 \(since"):
            lock.check()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["host"] == "node7"  # it is not ours


def test_owner_notices_that_its_lock_was_removed(tmp_path, quick):
    with WorkdirLock(tmp_path) as lock:
        (tmp_path / LOCK_FILE).unlink()
        _wait(lambda: lock._lost)
        with pytest.raises(UserError, match="was removed while this command was using"):
            lock.check()
    assert _names(tmp_path) == []


def test_error_of_a_run_whose_workdir_was_removed_says_so(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="was removed while this command"), WorkdirLock(folder):
        shutil.rmtree(folder)
        raise FileNotFoundError(folder / "teacher")
    assert not folder.exists()


def test_lock_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, not a folder"):
        WorkdirLock(tmp_path / "file").__enter__()
    with pytest.raises(UserError, match=r"cannot write to .*run: Not a directory"):
        WorkdirLock(tmp_path / "file" / "run").__enter__()
