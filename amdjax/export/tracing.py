"""Tracing of a network for a graph: as plain JAX, with errors that name the line and the cause."""

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from amdjax import cpu
from amdjax.errors import UserError, first_line

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))
# What JAX's messages call the symbolic size of the batch.
_BATCH = re.compile(r"_DimExpr|\bbatch\b")


@contextlib.contextmanager
def tracing(to: str) -> Iterator[None]:
    """Returns a context in which a network is traced and written as a graph.

    Args:
      to: the format, for the message.

    Raises:
      UserError: in place of any other error inside, with the line of the network's definition where
        that is outside amdjax, and with what to change if the size of the batch is the cause.
    """
    try:
        with cpu.disabled():
            yield
    except UserError:
        raise
    except Exception as error:  # the definition of a network may raise anything
        hint = ""
        if _BATCH.search(str(error)):
            hint = (
                "; a graph takes a batch of any size, whose value is not known: take x.shape[0], "
                "not len(x), and let no Python code depend on its value"
            )
        raise UserError(
            f"the network cannot be written as {to}: {_line(error)}{summary(error)}{hint}"
        ) from error


def summary(error: Exception) -> str:
    """Returns the type of an error with the first line of its message."""
    return f"{type(error).__name__}: {first_line(str(error)).rstrip('.')}"


def _line(error: Exception) -> str:
    """Returns the innermost line that is in neither amdjax nor a library; "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if file.is_file() and not any(map(file.is_relative_to, (_PACKAGE, *_LIBRARIES))):
            return f"{file}, line {frame.lineno}: "
    return ""
