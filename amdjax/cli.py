"""How every command of the library runs: what the user can mend becomes one line."""

import os
import sys
import traceback
from collections.abc import Callable

from absl import app, logging

from amdjax import distributed
from amdjax.checkpoint import disk_error
from amdjax.config import parse_flags
from amdjax.cpu.malloc import keep_freed_memory
from amdjax.errors import UserError


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs `main` with the command line that flags have left; ends with one line and exit code 2.

    Args:
      main: takes the command line, the program's name first, when all flags are parsed.
    """

    def quiet_main(arguments: list[str]) -> None:
        logging.set_verbosity(logging.FATAL)  # orbax logs what it then raises, tracebacks and all
        main(arguments)

    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for names of files that are no text
    try:
        app.run(quiet_main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        distributed.exit_process(130)
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        distributed.exit_process(1)
    except Exception as error:
        code = 2
        if isinstance(error, UserError):
            message = str(error)
        elif isinstance(error, OSError) and disk_error(error):
            message = f"{error}; make room there or choose another folder"
        elif distributed.is_peer_failure(error):
            message = (
                "another process of this job ended or cannot be reached; start all of them again: "
                f"they go on from the last checkpoint ({str(error).splitlines()[0]})"
            )
            code = 1  # starting again helps
        else:
            traceback.print_exc()
            distributed.exit_process(1)
        print(f"error: {message}", file=sys.stderr)
        distributed.exit_process(code)
