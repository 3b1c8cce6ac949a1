"""The lock of a workdir: one command at a time writes in it.

The lock is a file that names its owner: host, process and since when. A thread of the owner renews
the file's time stamp. On the owner's machine, the process itself shows whether the owner is alive;
elsewhere, as on a shared disk or in another container, the time stamp does. `flock`, and libraries
on top of it such as filelock, do not serve here: they name no owner, and what they do on a network
file system depends on its mount options.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from amdjax import distributed
from amdjax.errors import UserError
from amdjax.files import not_writable

LOCK_FILE = ".lock.json"
_RENEW_SECONDS = 10.0
# Without a renewal, after which the owner counts as dead where its process cannot be seen. A disk
# may stop answering for some seconds, and a preempted pod should not block its successor for long.
_STALE_SECONDS = 60.0
_RESTORE_SECONDS = 1.0  # after which a lock that was moved by mistake is back, see `_remove`


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Owner:
    """The process that holds a lock.

    Attributes:
      host: name of its machine.
      pid: its id.
      since: when it took the lock, in UTC.
      machine: identifies the running kernel and the namespace that the id belongs to; "": unknown.
      started: when the process started, in clock ticks since the machine did; a later process may
        have the same id.
    """

    host: str
    pid: int
    since: str
    machine: str
    started: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"

    def is_running(self) -> bool | None:
        """Returns whether the process exists; None where this process cannot see it."""
        if not self.machine or self.machine != _machine():
            return None
        try:
            state, started = _process_state(self.pid)
        except OSError:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except OSError:
                pass
            return None  # it belongs to another user, and the system hides it
        return started == self.started and state not in "ZX"  # a zombie has ended


class WorkdirLock:
    """Keeps other commands out of a workdir; a context manager that all processes enter together.

    The first process holds the lock; the others wait until it has it.
    """

    def __init__(self, workdir: Path):
        """Takes the workdir, which is created where it does not exist."""
        self._workdir = workdir
        self._path = workdir / LOCK_FILE
        self._owner = _this_process()
        self._held = False
        self._lost = ""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lock", daemon=True)

    def __enter__(self) -> "WorkdirLock":
        """Acquires the lock.

        The lock of a command that has ended without releasing it is taken over, with a line that
        says so.

        Raises:
          UserError: if another command uses the workdir, or it cannot be written.
        """
        try:
            if distributed.is_primary():
                try:
                    self._workdir.mkdir(parents=True, exist_ok=True)
                    self._acquire()
                except OSError as error:
                    raise not_writable(self._workdir, error) from error
                self._held = True
                self._remove_leftovers()
                self._thread.start()
            distributed.wait_for_all("workdir lock")
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Releases the lock.

        Raises:
          UserError: if an error ends the run because the workdir was removed or taken over.
        """
        if self._held and error is not None:
            self._note_loss()
        self._release()
        if isinstance(error, Exception):
            self.check()

    def check(self) -> None:
        """Makes sure that the workdir still belongs to this command; costs nothing.

        Raises:
          UserError: if the workdir was removed, or another command has taken it over.
        """
        if self._lost:
            raise UserError(self._lost)

    def _acquire(self) -> None:
        seen, since = None, 0.0
        while not self._create():
            try:
                owner, renewed = _read(self._path)
            except FileNotFoundError:  # released a moment ago
                continue
            if seen is None:
                since = time.monotonic()
            running = None if owner is None else owner.is_running()
            name = "another command" if owner is None else str(owner)
            if running or seen not in (None, renewed):
                raise UserError(
                    f"{self._workdir} is in use by {name}: wait until it ends, stop it, or choose "
                    "another --workdir"
                )
            # The second is longer after a clock was set back: the time stamp is in the future.
            silent = max(_file_system_time(self._workdir) - renewed, time.monotonic() - since)
            if running is False or silent > _STALE_SECONDS:
                reason = (
                    f"has not renewed it for {silent:.0f} s" if running is None else "has ended"
                )
                if self._remove(owner, renewed):
                    print(f"took over {self._workdir} from {name}, which {reason}", flush=True)
                continue
            if seen is None:
                print(
                    f"{self._workdir} is locked by {name}, which cannot be seen from here; waiting "
                    f"up to {_STALE_SECONDS - silent:.0f} s for a sign of life",
                    flush=True,
                )
            seen = renewed
            time.sleep(1)

    def _create(self) -> bool:
        """Creates the lock, and returns whether that succeeded: False if it exists."""
        try:
            file = self._path.open("x")
        except FileExistsError:
            return False
        try:
            with file:
                json.dump(dataclasses.asdict(self._owner), file)
        except BaseException:  # such as a full disk
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _remove(self, stale: _Owner | None, renewed: float) -> bool:
        """Removes the lock of an owner that has ended.

        Args:
          stale: its owner; None where that cannot be read.
          renewed: when it was renewed.

        Returns:
          Whether it was removed; False if it is another's by now, or was renewed.
        """
        aside = self._path.with_name(f"{LOCK_FILE}.{self._owner.host}.{self._owner.pid}")
        try:
            self._path.rename(aside)  # of several commands that try, one succeeds
            removed = _read(aside) == (stale, renewed)
        except FileNotFoundError:
            return False
        if not removed:
            with contextlib.suppress(FileExistsError):  # a third command was faster
                os.link(aside, self._path)
        aside.unlink(missing_ok=True)
        return removed

    def _remove_leftovers(self) -> None:
        """Removes what commands left that were killed while they took a lock over."""
        with contextlib.suppress(OSError):
            now = _file_system_time(self._workdir)
            for file in self._workdir.glob(f"{LOCK_FILE}.*"):
                # st_ctime is the time of a renaming; a lock keeps its st_mtime.
                if now - file.stat().st_ctime > _STALE_SECONDS:
                    file.unlink()

    def _release(self) -> None:
        """Ends the renewals, and removes the lock if this command holds it."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._held and _read(self._path)[0] == self._owner:
                self._path.unlink()

    def _keep_renewing(self) -> None:
        while not self._lost and not self._released.wait(_RENEW_SECONDS):
            self._note_loss()
            if not self._lost:
                with contextlib.suppress(OSError):
                    os.utime(self._path)

    def _note_loss(self, missing: bool = False) -> None:
        """Finds out whether the lock was removed, or taken over by another command.

        That happens to a command that did not run for a minute, for instance on a machine that was
        suspended, and when somebody cleans up.

        Args:
          missing: whether the lock was missing a moment ago.
        """
        try:
            owner, _ = _read(self._path)
        except FileNotFoundError:
            if not missing:
                time.sleep(_RESTORE_SECONDS)
                return self._note_loss(missing=True)
            self._lost = f"{self._path} was removed while this command was using {self._workdir}"
        except OSError:
            pass  # the disk does not respond now; it may next time
        else:
            if owner is not None and owner != self._owner:
                self._lost = (
                    f"{self._workdir} was taken over by {owner}, since this command had not "
                    "renewed its lock for a minute; nothing more is written"
                )


def _this_process() -> _Owner:
    pid, machine = os.getpid(), _machine()
    return _Owner(
        host=socket.gethostname(),
        pid=pid,
        since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        machine=machine,
        started=_process_state(pid)[1] if machine else 0,
    )


def _machine() -> str:
    """Returns an identifier of the running kernel and of this container's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # /proc is not mounted
        return ""


def _process_state(pid: int) -> tuple[str, int]:
    """Returns the state of a process, such as "R" or "Z", and when it started, in clock ticks."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return fields[0], int(fields[19])


def _read(path: Path) -> tuple[_Owner | None, float]:
    """Returns the owner of a lock, None if it is not (yet) written, and its last renewal.

    A network file system may show old time stamps, but not those of a file that was just opened.
    """
    with path.open() as file:
        renewed = os.fstat(file.fileno()).st_mtime
        try:
            values = json.load(file)
            owner = _Owner(**{**values, "pid": int(values["pid"])})
        except (ValueError, TypeError, KeyError):
            owner = None
    return owner, renewed


def _file_system_time(folder: Path) -> float:
    """Returns the time by the clock that stamps files, which on a shared disk is the server's."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{LOCK_FILE}.") as probe:
        return os.fstat(probe.fileno()).st_mtime
