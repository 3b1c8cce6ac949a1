"""`UserError`, the exception for mistakes that the user can correct, warnings, and messages."""

import difflib
import sys
from collections.abc import Iterable, Iterator

import jax


class UserError(ValueError):
    """A mistake in the input or in the machine's state that the user can correct.

    The message says what was wrong, with what value, and what to do. `amdjax.main` prints it
    as one line and exits with code 2; it never shows a traceback for it.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not in a registry.

    Args:
      kind: what the name stands for, in the singular: "loss", "model", "method".
      name: the unknown name.
      known: all valid names.

    Returns:
      A `UserError` with the most similar names, or with all of them if none is similar.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def warn(*messages: str) -> None:
    """Prints warnings on stderr, a line each: mistakes, perhaps, that stop nothing."""
    for message in messages:
        print(f"warning: {message}", file=sys.stderr)


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


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception, the one that caused it or was handled when it was raised, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _text(message: BaseException | str) -> str:
    text = str(message).strip()
    return text or (type(message).__name__ if isinstance(message, BaseException) else "")
