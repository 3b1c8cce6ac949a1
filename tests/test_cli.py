"""How a command ends that is not ended by its own work."""

import os
import subprocess
import sys

import pytest

from tests.tiny_run import ROOT

SCRIPT = """
import os, sys
from amdjax.cli import run_command

def main(arguments):
    {body}

run_command(main)
"""


def _run(body, **settings):
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"},
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
        **settings,
    )
    return process.returncode, getattr(process, "stdout", None), process.stderr


def test_ctrl_c_is_one_word():
    assert _run("raise KeyboardInterrupt") == (130, None, b"interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_error():
    end, write = os.pipe()
    os.close(end)
    try:
        code, _, err = _run("print('x', flush=True)", stdout=write)
    finally:
        os.close(write)
    assert (code, err) == (1, b"")


def test_names_that_are_no_text_are_printed():
    code, out, err = _run(r"print(os.fsdecode(b'\xff.png'))", stdout=subprocess.PIPE)
    assert (code, out, err) == (0, b"\\udcff.png\n", b"")


@pytest.mark.parametrize("kind", ["ValueError", "OSError"])
def test_faults_of_the_program_show_where_they_are(kind):
    code, _, err = _run(f"raise {kind}('what nobody expects')")
    assert code == 1
    assert b"Traceback" in err and b"what nobody expects" in err
