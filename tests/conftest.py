"""Four virtual devices, so that every test of the mapped step can run on more than one.

Most of the tests' time is compilation, so LLVM optimises as little as leaves the results the same.
"""

import os
from pathlib import Path

import pytest

from tests.make_data import write_folder
from tests.tiny_run import QUICK_COMPILATION, start

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION} "
    "--xla_force_host_platform_device_count=4"
)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64 training and 32 test images in four classes."""
    return write_folder(tmp_path_factory.mktemp("images") / "set", per_class=16, size=16)


@pytest.fixture
def begin():
    """Starts commands, and ends with the test those that still run."""
    running = []

    def begin(*arguments, **environment):
        running.append(start(*arguments, **environment))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate()
