"""Command lines: parsing of flags, errors as one line with exit code 2."""

import ast
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import (
    ConfigFileFlagParser,
)

from amdjax import cpu, distributed
from amdjax.config import check_complete, paths_of
from amdjax.data.load import prepared_folder
from amdjax.errors import (
    UserError,
    first_line,
    is_out_of_memory,
)
from amdjax.files import disk_error, remedy, removed_file
from amdjax.flag_errors import config_file_error, flag_error
from amdjax.imports import apply_imports, import_modules, search_folders
from amdjax.recipes import RECIPES, check_recipe, find_recipe

_CONFIG_FLAGS = ("--config", "-config")
_IMPORT_FLAGS = ("--config.imports", "-config.imports")


class _ListParser(flags.ArgumentParser):
    """Parser of lists: `kd,amd_gl`, `0,1,2`, `(1.1,1.35)`; the last of several flags counts."""

    syntactic_help = "items separated by commas, or a Python tuple"

    def parse(self, argument: Any) -> tuple:
        """Returns the items as a tuple; numbers and nested tuples become Python values.

        Raises:
          ValueError: on a bracket that is not closed, and the like.
        """
        if not isinstance(argument, str):
            return tuple(argument)
        text = argument.strip()
        if text.startswith(("(", "[")):
            value = _literal(text)
            if isinstance(value, str):
                raise ValueError(f"{argument!r} is not a Python tuple")
            return tuple(value) if isinstance(value, tuple | list) else (value,)
        return tuple(_literal(item.strip()) for item in text.split(",") if item.strip())

    def flag_type(self) -> str:
        """Returns the word that absl's help shows."""
        return "list"


class _RecipeParser(ConfigFileFlagParser):
    """Parser of `--config` that imports the modules of `config.imports`.

    The settings of the losses that they register can then be overridden like all others.

    Attributes:
      imports: modules that the command line names in place of those of the recipe; None: it names
        none.
    """

    def __init__(self, imports: tuple[str, ...] | None):
        super().__init__("config")
        self.imports = imports

    def parse(self, path: str) -> Any:
        """Returns the config of a recipe, with the settings of all losses."""
        folder = Path(path.split(":")[0]).absolute().parent
        search_folders([folder] if folder != RECIPES else [])
        if self.imports is not None:
            import_modules(self.imports)  # before the recipe sets what depends on them
        config = super().parse(path)
        if isinstance(config, ConfigDict) and {"imports", "losses", "augment"} <= set(config):
            if self.imports is not None:
                config.imports = self.imports
            apply_imports(config)
        return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


# Every setting whose default is a tuple is parsed with it.
config_flags.register_flag_parser_for_type(tuple, _ListParser())


def check_no_arguments(arguments: list[str], hint: str) -> None:
    """Makes sure that a command was given flags alone.

    Args:
      arguments: that are not flags, the program's name first.
      hint: what may be meant.

    Raises:
      UserError: naming the first argument that is not a flag.
    """
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; {hint}")


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs `main` with the arguments that are not flags; a user's error ends with exit code 2.

    Args:
      main: takes the arguments, the program's name first, after all flags are parsed.
    """
    cpu.tune_malloc()  # before JAX starts its backends
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    # --help shows the flags of the main module, which is not that of `main` in a console script.
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        distributed.exit_process(130)
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        distributed.exit_process(1)
    except Exception as error:
        message, code = _explain(error)
        if message is None:
            traceback.print_exc()
        else:
            print(f"error: {message}", file=sys.stderr)
        distributed.exit_process(code)


def _explain(error: Exception) -> tuple[str | None, int]:
    """Returns the message for the user and the exit code; no message for an error of the code."""
    if isinstance(error, UserError):
        return str(error), 2
    if is_out_of_memory(error):
        return (
            f"the memory is full ({first_line(error)}); end other programs that use it. Training "
            "needs less memory with a larger config.accumulate, a smaller config.batch_size, or "
            "config.data.device_gib=0"
        ), 2
    if isinstance(error, OSError) and (reason := disk_error(error)):
        return f"{error}; {remedy(reason)} or choose another folder", 2
    if distributed.is_peer_failure(error):
        return (
            "another process of this job ended or cannot be reached; start all of them again to "
            f"resume from the last checkpoint ({first_line(error)})"
        ), 1  # starting again helps
    if reason := removed_file(error, _folders_in_use()):
        return (
            f"a file was removed while it was in use: {reason}; repeat the command to continue "
            "from what is left"
        ), 2
    return None, 1


def _folders_in_use() -> list[Path]:
    """Returns the files and folders that the command writes and reads, as the command line says."""
    values = flags.FLAGS.flag_values_dict()
    folders = [values.get("workdir") or "runs", prepared_folder("")]
    folders += [values.get(key) for key in ("data_dir", "data_folder")]
    if isinstance(config := values.get("config"), ConfigDict):
        folders += paths_of(config)
    # Path.expanduser raises an error where the user has no home folder.
    return [Path(os.path.expanduser(str(folder))) for folder in folders if folder]  # noqa: PTH111


def parse_flags(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the command line, for `absl.app.run`.

    Args:
      argv: the command line, the program's name first.
      values: the flags that are defined.

    Returns:
      The arguments that are not flags.

    Raises:
      UserError: on anything that is wrong in it or in the config file.
    """
    logging.set_verbosity(logging.ERROR)
    words = list(argv)
    file: str | None = None
    if "config" in values:
        file, imports = _find_config(words)
        if file is not None:
            values["config"].parser = _RecipeParser(imports)
    try:
        arguments = values(words)
    except Exception as error:
        raise config_file_error(error, file) or flag_error(error, words, values) from error
    if file is not None:
        _check_config(values["config"].value, file)
    return arguments


def _find_config(words: list[str]) -> tuple[str | None, tuple | None]:
    """Replaces the name of a packaged recipe in a command line by its path.

    Args:
      words: the command line, which is changed.

    Returns:
      The recipe's file, None if there is none, and the modules of `--config.imports`, None if the
      command line names none.

    Raises:
      UserError: if the file does not exist, or the modules are not a list.
    """
    file, imports = None, None
    for i, (word, following) in enumerate(itertools.zip_longest(words, words[1:], fillvalue="")):
        if match := re.fullmatch(r"(--?config=)(.*)", word):
            prefix, value, position = match[1], match[2], i
        elif word in _CONFIG_FLAGS:
            prefix, value, position = "", following, min(i + 1, len(words) - 1)
        else:
            name, equals, text = word.partition("=")
            if name in _IMPORT_FLAGS:
                imports = _parse_imports(text if equals else following)
            continue
        value = find_recipe(value)
        file = value.split(":")[0]
        check_recipe(file)
        words[position] = prefix + value
    return file, imports


def _parse_imports(text: str) -> tuple:
    try:
        return _ListParser().parse(text)
    except ValueError as error:
        raise UserError(f"--config.imports: {error}") from error


def _check_config(config: Any, file: str) -> None:
    """Raises UserError if a config file returns something else than a complete config."""
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config: get_config of {file} returns a {type(config).__name__}, not a "
            "ml_collections.ConfigDict; start from amdjax.configs.default.get_config()"
        )
    check_complete(config, f"--config: {file}")
