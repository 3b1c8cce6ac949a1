"""The main job: `python -m amdjax.main --config=configs/NAME.py --workdir=DIR`."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from amdjax import parallel
from amdjax.checkpoint import disk_error
from amdjax.config import parse_flags
from amdjax.errors import UserError
from amdjax.listing import listing
from amdjax.train import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or your own.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, metrics and results; default: runs/CONFIG (-SETUP)."
)
_LIST = flags.DEFINE_bool("list", False, "Print methods, losses, models and data sets, and stop.")


def main(_: list[str]) -> None:
    """Runs the config and leaves everything in the workdir; or lists what there is."""
    if _LIST.value:
        print(listing())
        return
    if _CONFIG.value is None:
        raise UserError("--config=configs/NAME.py is missing (or --list, to see what there is)")
    logging.set_verbosity(logging.FATAL)  # orbax logs what it then raises, tracebacks and all
    parallel.initialize()
    file, _, setup = flags.FLAGS["config"].config_filename.partition(":")
    name = f"{Path(file).stem}-{setup}" if setup else Path(file).stem
    run(_CONFIG.value, Path(_WORKDIR.value or f"runs/{name}"))


def run_app() -> None:
    """Runs `main`; what the user can mend becomes one line and exit code 2."""
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if disk_error(error) is None:
            raise
        message = f"{error}; make room there or choose another --workdir"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run_app()
