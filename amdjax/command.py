"""How every command of the library runs: what the user can mend becomes one line."""

import sys
from collections.abc import Callable

from absl import app, logging

from amdjax.checkpoint import disk_error
from amdjax.config import parse_flags
from amdjax.errors import UserError


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs `main` with the command line that flags have left; ends with one line and exit code 2.

    Args:
      main: takes the command line, the program's name first, when all flags are parsed.
    """

    def quiet_main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.FATAL)  # orbax logs what it then raises, tracebacks and all
        main(arguments)

    try:
        app.run(quiet_main, flags_parser=parse_flags)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if disk_error(error) is None:
            raise
        message = f"{error}; make room there or choose another folder"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
