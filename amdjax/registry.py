"""Registration of entries by name: what the public `register_*` functions have in common."""

import re
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from amdjax.errors import UserError

_Definition = TypeVar("_Definition")

_PACKAGE = "amdjax"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# (kind, name) -> (file, definition) of the entries that were registered by `register`.
_ORIGINS: dict[tuple[str, str], tuple[str, str]] = {}


def register(
    registry: MutableMapping[str, Any], kind: str, name: str, entry: Any, definition: Any = None
) -> None:
    """Adds an entry to a registry; to be called by the function, or decorator, that users call.

    An entry that the same definition in the same file has registered is replaced: the module was
    loaded again, or it is a recipe that is read as a recipe and imported as a module. A file that
    defines it twice cannot be told from that, so the last definition counts, as in Python itself.

    Args:
      registry: name -> entry.
      kind: what an entry is, in the singular: "loss", "method".
      name: of the entry: lower-case letters, digits and underscores.
      entry: the value for the registry.
      definition: the function or class that is registered, if it is one.

    Raises:
      UserError: if the name has another form, or another definition has registered it.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a {kind}: use lower-case letters, digits and "
            "underscores, starting with a letter"
        )
    file = _file_of(sys._getframe(2).f_globals)  # of the caller's caller
    known = _ORIGINS.get((kind, name), (_PACKAGE, ""))
    qualified_name = getattr(definition, "__qualname__", "")  # a functools.partial has none
    if name in registry and known != (file, qualified_name):
        raise UserError(
            f"the {kind} {name!r} is already registered by {known[0]}; choose another name"
        )
    registry[name] = entry
    _ORIGINS[kind, name] = (file, qualified_name)


def registering(
    registry: MutableMapping[str, Any],
    kind: str,
    name: str,
    make_entry: Callable[[Any], Any],
) -> Callable[[_Definition], _Definition]:
    """Returns a decorator that registers what it decorates, and returns it unchanged.

    Args:
      registry: as for `register`.
      kind: as for `register`.
      name: as for `register`.
      make_entry: function or class that is decorated -> entry.
    """

    def decorate(definition: _Definition) -> _Definition:
        register(registry, kind, name, make_entry(definition), definition)
        return definition

    return decorate


def registering_files() -> list[str]:
    """Returns the files outside the package that have registered entries."""
    return sorted({file for file, _ in _ORIGINS.values() if file != _PACKAGE})


def _file_of(module: dict[str, Any]) -> str:
    """Returns the file of a module, or its name where it has none, as in a notebook."""
    if "__file__" not in module:
        return module["__name__"]
    file = Path(module["__file__"]).resolve()
    return _PACKAGE if file.is_relative_to(Path(__file__).resolve().parent) else str(file)
