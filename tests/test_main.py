"""The main command: its error messages, and its results after kills and signals."""

import json
import os
import signal
import subprocess

import numpy as np
import orbax.checkpoint as ocp
import pytest

from amdjax.workdir_lock import WorkdirLock
from tests.tiny_run import PYTHON, ROOT, command, finish, wait_for_lines

MISTAKES = [
    (("--config.methods=kd,", "at"), "unexpected argument 'at'; write lists without spaces"),
    (["--config.studnt.name=x"], "unknown config key 'studnt.name'; did you mean student.name"),
    (["--config.methods=amd_lg"], "unknown method 'amd_lg'; did you mean amd_g"),
    (["--config.methods=1"], "unknown method '1'"),
    (["--stop_code=300"], "--stop_code=300: 300 is not an integer in the range [0, 255]"),
    (["--workdir=/dev/null/x"], "cannot write to /dev/null/x: Not a directory"),
]


def _assert_one_line_error(code, out, err, message, notes=0):
    assert code == 2, err
    *before, error = err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert [line[:6] for line in before] == ["note: "] * notes
    assert "Traceback" not in out + err


def test_main_reports_mistakes_in_one_line(images, tmp_path, start_process):
    running = [start_process(command(images, tmp_path, *flags)) for flags, _ in MISTAKES]
    for process, (_, message) in zip(running, MISTAKES, strict=True):
        out, err = process.communicate(timeout=120)
        _assert_one_line_error(process.returncode, out, err, message)


def test_main_refuses_a_workdir_that_is_in_use(images, tmp_path):
    with WorkdirLock(tmp_path):
        code, out, err = finish(command(images, tmp_path))
    _assert_one_line_error(code, out, err, f"{tmp_path} is in use by process {os.getpid()} on ")


@pytest.mark.parametrize("module", ["main", "predict"])
def test_commands_name_a_platform_without_a_device(tmp_path, module):
    words = [PYTHON[0], "-m", f"amdjax.{module}", f"--workdir={tmp_path}"]
    if module == "main":
        words.append("--config=digits.py")
    code, out, err = finish(words, JAX_PLATFORMS="nothing")
    _assert_one_line_error(code, out, err, "JAX has no device for JAX_PLATFORMS=nothing: ")


def test_main_without_a_config_names_the_flag():
    code, out, err = finish(PYTHON)
    _assert_one_line_error(code, out, err, "--config")


def _parameters(phase_folder, step):
    folder = phase_folder / "checkpoints" / str(step) / "default"
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.absolute())


@pytest.mark.slow
def test_killed_and_stopped_runs_end_with_the_bits_of_one_run(images, tmp_path, start_process):
    flags = ["--config.checkpoint_every_steps=3", "--config.epochs=6", "--config.augment.flip"]
    flags.append("--config.augment.padding=0")  # the student's steps read the teacher cache
    code, _, err = finish(command(images, tmp_path / "whole", *flags))
    assert code == 0, err
    assert "note: computing the teacher's outputs for 64 images, once" in err

    words = command(images, tmp_path / "broken", *flags)
    for phase, lines, number in (
        ("teacher", 5, signal.SIGKILL),
        ("teacher", 14, signal.SIGTERM),
        ("amd_gl", 2, signal.SIGKILL),
        ("amd_gl", 20, signal.SIGKILL),
        ("amd_gl", 30, signal.SIGTERM),
    ):
        process = start_process(words)
        wait_for_lines(tmp_path / "broken" / phase / "metrics.jsonl", lines, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        if number == signal.SIGTERM:
            assert process.returncode == 0, err
            assert f"stopped during {phase}; repeat the command to resume" in out
        else:
            assert process.returncode == -signal.SIGKILL
    code, _, err = finish(words)
    assert code == 0, err

    for phase in ("teacher", "amd_gl"):
        whole = _parameters(tmp_path / "whole" / phase, 48)
        broken = _parameters(tmp_path / "broken" / phase, 48)
        assert whole["params"].keys() == broken["params"].keys()
        _assert_equal(whole, broken)
        lines = [
            [
                {**json.loads(line), "images_per_s": None}
                for line in (tmp_path / name / phase / "metrics.jsonl").read_text().splitlines()
            ]
            for name in ("whole", "broken")
        ]
        assert lines[0] == lines[1]
    whole, broken = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "broken")
    )
    assert whole.pop("runs") and broken.pop("runs")  # with times
    assert whole == broken


def _assert_equal(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            _assert_equal(x, y)
    elif a is not None:
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_full_disk_is_reported_and_loses_no_checkpoint(images, tmp_path):
    limit = ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash"]  # no file above 100 KiB
    code, _, err = finish(command(images, tmp_path, methods="scratch"))
    assert code == 0, err
    words = command(images, tmp_path, methods="at")
    code, out, err = finish([*limit, *words])
    _assert_one_line_error(code, out, err, "cannot write the checkpoint of step 8", notes=1)
    assert (tmp_path / "scratch" / "checkpoints" / "16").is_dir()
    code, _, err = finish(words)
    assert code == 0, err


def test_main_does_not_import_tensorflow():
    words = "import sys, amdjax.main; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([PYTHON[0], "-c", words], cwd=ROOT).returncode == 0
