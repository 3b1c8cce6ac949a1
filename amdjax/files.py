"""Paths of the user, files that are written whole or not at all, and errors of a disk."""

import contextlib
import errno
import itertools
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from amdjax.errors import UserError, exception_chain, first_line, note, one_line

# What the system says about files that are missing, of another kind, or on a disk that fails. All
# other errors, such as a server that does not respond, say nothing about what is in a file.
DAMAGE_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)
# What to do about the errors of a full or protected disk.
_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EFBIG: "raise the limit of the file size",
}


def local_path(text: str, name: str) -> Path:
    """Returns a path in the local file system, with "~" replaced by the home folder.

    Args:
      text: what the user wrote.
      name: of the flag or setting, for the message.

    Raises:
      UserError: for a URL such as gs://bucket/runs, or "~" without a home folder.
    """
    if "://" in text:
        raise UserError(
            f"{name}={text} is a URL; amdjax reads and writes local folders only: mount or copy "
            "it, and keep the workdir on a disk that renames folders atomically, such as NFS"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}={text}: {error}; write the whole path") from error


def cache_folder() -> Path:
    """Returns amdjax's folder in the user's cache, which may not exist.

    Raises:
      RuntimeError: if the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "amdjax"


def write_atomically(path: Path, text: str) -> None:
    """Writes a file in UTF-8 so that after a crash it is complete, or as it was before.

    A folder of that name is renamed, see `set_aside`.
    """
    if path.is_dir():
        set_aside(path)
    # File names that are not UTF-8 may be part of the text.
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a file to write; after the block it takes the place of `path`.

    Another process may write the same file at the same time. After an error nothing is left.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Renames what takes the name of a file to NAME.damaged, or NAME.damaged2 and so on."""
    names = (
        f"{path.name}.damaged{number or ''}" for number in itertools.chain([0], itertools.count(2))
    )
    free = next(other for name in names if not (other := path.with_name(name)).exists())
    path.rename(free)
    note(f"{path} cannot be used; it was renamed to {free.name}")


def check_writable(folder: Path) -> None:
    """Creates a folder, and makes sure that files can be written to it.

    Raises:
      UserError: if not.
    """
    probe = folder / ".probe"
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(4096))
        probe.unlink()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns an error of the system into `not_writable`.

    Raises:
      UserError: if a file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise not_writable(folder, error) from error


def not_writable(folder: Path, error: OSError) -> UserError:
    """Returns the error for a folder to which files cannot be written."""
    if folder.is_file():
        return UserError(f"{folder} is a file, not a folder; remove it or choose another folder")
    reason = error.strerror or one_line(error)  # NumPy raises errors without the system's message
    remedies = filter(None, [remedy(reason), "choose another folder"])
    return UserError(f"cannot write to {folder}: {reason}; {' or '.join(remedies)}")


def is_special(path: Path) -> bool:
    """Returns whether a path is a pipe, a socket or a device: reading it may wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def disk_error(error: BaseException) -> str | None:
    """Returns the system's message if an error comes from a full or protected disk, else None."""
    for cause in exception_chain(error):
        for code in _REMEDIES:
            message = os.strerror(code)
            if message in str(cause) or (isinstance(cause, OSError) and cause.errno == code):
                return message
    return None


def remedy(message: str | None) -> str:
    """Returns what to do about a message of `disk_error`; "" for other messages."""
    return next((text for code, text in _REMEDIES.items() if os.strerror(code) == message), "")


def removed_file(error: BaseException, folders: Iterable[Path]) -> str | None:
    """Returns what names the file, if an error comes from one that was removed, else None.

    Args:
      error: that was raised.
      folders: below which files may be removed while a command runs. Any other file that is missing
        is a defect.
    """
    roots = [folder.absolute() for folder in folders]
    for cause in exception_chain(error):
        if isinstance(cause, FileNotFoundError | NotADirectoryError):
            file = cause.filename
        else:
            found = re.search(r'NOT_FOUND: .*local file "(.+?)"', str(cause))  # TensorStore's
            file = found and found[1]
        if isinstance(file, str) and any(Path(file).absolute().is_relative_to(r) for r in roots):
            return first_line(cause)
    return None
