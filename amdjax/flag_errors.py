"""Errors of a command line and of a config file, in the words of amdjax."""

import re
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path

from absl import flags
from ml_collections.config_flags.config_flags import UnsupportedOperationError

from amdjax.config import flat_settings, unknown_key
from amdjax.configs import default
from amdjax.errors import UserError, exception_chain, one_line
from amdjax.recipes import RECIPES

# What absl and Python say about a value of a flag, and what it must be.
_KINDS = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "('Non-boolean argument to boolean flag'": "True or False",
}
# What ml_collections says about a value in a recipe, and what each type is in words.
_WRONG_TYPE = re.compile(
    r"Could not override field '(?P<name>.+)' \(reference\)\. (?P<value>.*) is of original type "
    r"<class '(?P<type>.+)'> and cannot be casted to type <class '(?P<wanted>.+)'>",
    re.DOTALL,
)
_TYPES = {
    "bool": "True or False",
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "tuple": 'a tuple, such as ("kd",) or (5, 7)',
}
_FLAG_ERRORS = (
    flags.Error,
    UnsupportedOperationError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)


def config_file_error(error: Exception, file: str | None) -> UserError | None:
    """Returns what is wrong in the config file, if the error comes from there.

    Args:
      error: that parsing the command line has raised.
      file: path of the config file; None: there is none.
    """
    causes = list(exception_chain(error))
    for cause in causes:
        # ml_collections raises the recipe's error a second time, with the traceback as its text.
        if isinstance(cause, UserError) and not str(cause).startswith("Error whilst parsing"):
            return cause
    if file is None:
        return None
    name = Path(file).name if Path(file).parent == RECIPES else file
    for cause in reversed(causes):
        if isinstance(cause, SyntaxError) and cause.filename == file:
            return UserError(f"--config: {file}, line {cause.lineno}: {cause.msg}")
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        if lines:
            return UserError(f"--config: {file}, line {lines[-1]}: {_recipe_mistake(cause)}")
        # ml_collections calls get_config with the set-up, if there is one.
        if isinstance(cause, TypeError) and str(cause).startswith("get_config() takes"):
            return UserError(f"{name} has no set-ups; write --config={name}")
        if isinstance(cause, TypeError) and str(cause).startswith("get_config() missing"):
            return UserError(f"{name} needs a set-up; write --config={name}:SETUP")
    return None


def _recipe_mistake(error: BaseException) -> str:
    """Returns what a line of a config file does wrong."""
    if found := _WRONG_TYPE.fullmatch(str(error)):
        name, wanted = found["name"], found["wanted"]
        if wanted.endswith("ConfigDict"):
            return f"{name} is a group of settings; set one of them"
        value = repr(found["value"]) if found["type"] == "str" else found["value"]
        return f"{name} must be {_TYPES.get(wanted, f'of type {wanted}')}, not {one_line(value)}"
    # A ConfigDict raises KeyError(text), and AttributeError(KeyError(text)) for an attribute.
    cause = error.args[0] if isinstance(error, AttributeError) and error.args else error
    if isinstance(cause, KeyError) and "\nDid you mean" in (text := str(*cause.args[:1])):
        return f"there is no setting {'. '.join(text.splitlines())}"
    return one_line(f"{type(error).__name__}: {error}").removesuffix(":")


def flag_error(error: Exception, words: Sequence[str], values: flags.FlagValues) -> Exception:
    """Returns the error for a wrong flag; other errors are returned as they are.

    Args:
      error: that parsing the command line has raised.
      words: of the command line.
      values: the flags of the command.
    """
    message = one_line(str(error.args[0] if error.args else error))  # str(KeyError) has quotes
    if isinstance(error, AttributeError) and "get_config" in message:
        return UserError("--config: the file has no function get_config")
    known = flat_settings(default.get_config())
    groups = {key.rsplit(".", depth)[0] for key in known for depth in range(key.count(".") + 1)}
    unknown = error.flagname if isinstance(error, flags.UnrecognizedFlagError) else None
    if unknown in groups and "config" in values:
        return UserError(f"unknown flag --{unknown}; did you mean --config.{unknown}?")
    if wrong := _wrong_value(message, known):
        return wrong
    if isinstance(error, AttributeError | KeyError):
        for word in words:
            match = re.match(r"--?config\.([^=]+)", word)
            if match and match[1] not in groups:
                return unknown_key(match[1], known)
    return UserError(f"command line: {message}") if isinstance(error, _FLAG_ERRORS) else error


def _wrong_value(message: str, known: Collection[str]) -> UserError | None:
    """Returns the error for a value of the wrong kind, if the message is about one."""
    if found := re.match(r"flag --config\.(\S+?)=.* as a ConfigDict: ", message):
        names = [key for key in known if key.startswith(f"{found[1]}.")]
        if names:
            example = min(names, key=lambda key: not key.endswith(".name"))
            return UserError(
                f"--config.{found[1]} is a group of settings; set one of them, such as "
                f"--config.{example}"
            )
    for reason, kind in _KINDS.items():
        if found := re.match(f"flag (\\S+?)=(.*): {re.escape(reason)}", message):
            return UserError(f"{found[1]} must be {kind}, not {found[2]!r}")
    return None
