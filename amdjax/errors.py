"""`UserError`, for mistakes that the user can correct; warnings, notes and texts of errors."""

import difflib
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax

_NUM_NAMES = 3  # that a message shows of many
_PACKAGE = Path(__file__).resolve().parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


class UserError(ValueError):
    """A mistake in the input or in the machine's state that the user can correct.

    The message says what was wrong, with what value, and what to do. The commands
    print it and exit with code 2, without a traceback.
    """


class UnknownNameError(UserError):
    """A name that is not in a registry."""


def unknown_name(
    kind: str, name: object, known: Iterable[str], cutoff: float = 0.5
) -> UnknownNameError:
    """Returns the error for a name that is not in a registry.

    Args:
      kind: what the name stands for, in the singular: "loss", "model", "method".
      name: the unknown name, or a value that is not a text.
      known: all valid names.
      cutoff: how similar a name must be to be suggested, see `difflib.get_close_matches`.

    Returns:
      The error with the most similar names, or with all of them if none is similar.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=cutoff)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UnknownNameError(f"unknown {kind} {name!r}; {hint}")


def first_names(names: Sequence[str]) -> str:
    """Returns "a, b, c and 4 more": the first three of several names, and how many others."""
    shown, others = names[:_NUM_NAMES], len(names) - _NUM_NAMES
    return ", ".join(shown) + (f" and {others:,} more" if others > 0 else "")


def warn(*messages: str) -> None:
    """Prints warnings on stderr, one line each: possible mistakes that do not stop the command."""
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)


def note(*messages: str) -> None:
    """Prints notes on stderr, one line each: what the command does that is not obvious."""
    for message in messages:
        print(f"note: {message}", file=sys.stderr)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the memory of a device or of the machine is full."""
    of_jax = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return of_jax or isinstance(error, MemoryError)


def one_line(message: BaseException | str) -> str:
    """Returns a text, or the message of an exception or else its type, without line breaks."""
    return " ".join(_text(message).split())


def first_line(message: BaseException | str) -> str:
    """Returns the first line of a text, or of the message of an exception or else its type."""
    return next(iter(_text(message).splitlines()), "")


def error_summary(error: Exception) -> str:
    """Returns the type of an error with the first line of its message."""
    return f"{type(error).__name__}: {first_line(str(error)).rstrip('.')}"


def user_line(error: BaseException, called_by: str = "") -> str:
    """Returns the innermost line of an error that is in neither amdjax nor a library.

    Args:
      error: that was raised.
      called_by: file of the package, of which only what it has called counts; "": all lines.

    Returns:
      "FILE, line N: "; "" if there is no such line.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == called_by:
            break
        file = Path(frame.filename).resolve()
        if file.is_file() and not any(map(file.is_relative_to, (_PACKAGE, *_LIBRARIES))):
            return f"{file}, line {frame.lineno}: "
    return ""


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception, the one that caused it or was handled when it was raised, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(message: BaseException | str) -> str:
    text = str(message).strip()
    return text or (type(message).__name__ if isinstance(message, BaseException) else "")
