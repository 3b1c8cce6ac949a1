"""Parsing of a command line in a test, apart from the flags of absl."""

import sys

from absl import flags
from ml_collections import config_flags

from amdjax.cli import parse_flags


def parse_config(*words):
    """Returns the config of the command `amdjax` with these arguments."""
    values = flags.FlagValues()
    argv = ["amdjax", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    sys.modules.pop("config_config", None)  # the module of the file that was parsed before
    parse_flags(argv, values)
    return values.config
