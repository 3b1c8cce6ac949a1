"""Freed memory is there for the next step."""

import subprocess
import sys

import pytest

_COUNT = """
import resource
from amdjax.cpu.malloc import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
large = b"x" * 2**26
del large
before = faults()
large = b"x" * 2**26
print(faults() - before)
"""


def _faults(keep):
    command = [sys.executable, "-c", _COUNT.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told anything")
def test_pages_are_not_cleared_anew():
    if _faults(keep=False) < 1000:
        pytest.skip("this C library keeps freed memory by itself")
    assert _faults(keep=True) < 100
