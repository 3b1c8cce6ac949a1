"""Tracing of a network for a graph: as plain JAX, with errors that name the line and the cause."""

import contextlib
import re
from collections.abc import Iterator

from amdjax import cpu
from amdjax.errors import UserError, error_summary, user_line

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
        with cpu.workarounds_disabled():
            yield
    except UserError:
        raise
    except Exception as error:  # the definition of a network may raise anything
        hint = ""
        if _BATCH.search(str(error)):
            hint = (
                "; a graph takes a batch of any size, whose value is not known: use x.shape[0], "
                "not len(x), and write no Python code that depends on its value"
            )
        raise UserError(
            f"the network cannot be written as {to}: {user_line(error)}{error_summary(error)}{hint}"
        ) from error
