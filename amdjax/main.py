"""The main job: `python -m amdjax.main --config=configs/NAME.py --workdir=DIR`."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from amdjax import distributed
from amdjax.cli import run_command
from amdjax.errors import UserError
from amdjax.listing import listing
from amdjax.training.run import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or your own.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, metrics and results; default: runs/CONFIG (-SETUP)."
)
_STOP_CODE = flags.DEFINE_integer(
    "stop_code", 0, "Exit code of a run that SIGTERM or Ctrl-C stopped, for what starts it again."
)
_LIST = flags.DEFINE_bool("list", False, "Print methods, losses, models and data sets, and stop.")


def main(_: list[str]) -> None:
    """Runs the config and leaves everything in the workdir; or lists what there is."""
    if _LIST.value:
        print(listing())
        return
    if _CONFIG.value is None:
        raise UserError("--config=configs/NAME.py is missing (or --list, to see what there is)")
    distributed.initialize()
    file, _, setup = flags.FLAGS["config"].config_filename.partition(":")
    name = f"{Path(file).stem}-{setup}" if setup else Path(file).stem
    if not run(_CONFIG.value, Path(_WORKDIR.value or f"runs/{name}")):
        sys.exit(_STOP_CODE.value)


if __name__ == "__main__":
    run_command(main)
