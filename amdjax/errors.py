"""`UserError`, the exception for mistakes that the user can correct."""

import difflib
from collections.abc import Iterable


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
