"""The main command: `python -m amdjax.main --config=configs/NAME.py --workdir=DIR`."""

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from amdjax import distributed
from amdjax.cli import check_no_arguments, run_command
from amdjax.errors import UserError
from amdjax.files import local_path
from amdjax.listing import list_registries
from amdjax.training.run import prepare, run

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Name of a recipe, such as cifar10.py:b, or a file of your own. Each setting is a flag: "
    "--config.methods=kd,at --config.optim.learning_rate=0.05.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints, metrics and results; default: runs/CONFIG (-SETUP)."
)
_STOP_CODE = flags.DEFINE_integer(
    "stop_code",
    0,
    "Exit code after SIGTERM or Ctrl-C, for a scheduler that starts the run again.",
    lower_bound=0,
    upper_bound=255,  # exit codes are one byte
)
_PREPARE_ONLY = flags.DEFINE_bool(
    "prepare_only", False, "Prepare the data and check the settings, and train nothing."
)
_LIST = flags.DEFINE_bool(
    "list", False, "Print recipes, methods, losses, networks and data sets, and exit."
)


def main(arguments: list[str]) -> None:
    """Runs the config and leaves everything in the workdir; or prepares its data or lists names."""
    check_no_arguments(arguments, "write lists without spaces: --config.methods=kd,at")
    if _LIST.value:
        print(list_registries())
        return
    if _CONFIG.value is None:
        raise UserError("--config=NAME.py is missing (--list shows what there is)")
    distributed.initialize()
    distributed.enable_compilation_cache()
    config_flag: Any = flags.FLAGS["config"]
    file, _, setup = config_flag.config_filename.partition(":")
    name = f"{Path(file).stem}-{setup}" if setup else Path(file).stem
    workdir = local_path(_WORKDIR.value or f"runs/{name}", "--workdir")
    overridden = config_flags.get_override_values(config_flag)
    if _PREPARE_ONLY.value:
        prepare(_CONFIG.value, workdir, overridden)
    elif not run(_CONFIG.value, workdir, overridden):
        sys.exit(_STOP_CODE.value)


def cli() -> None:
    """Runs the command, for the console script `amdjax`."""
    run_command(main)


if __name__ == "__main__":
    cli()
