"""`launch/multiprocess.sh`: several processes on one machine."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.tiny_run import ROOT, command, complete_steps, finish, wait_for_lines

SCRIPT = ["bash", "launch/multiprocess.sh"]


def _children(process):
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in listing.read_text().split()]


@pytest.fixture
def print_environment(tmp_path, monkeypatch):
    """An environment in which each process only prints what it was given."""
    gpus = tmp_path / "nvidia-smi"
    gpus.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES on $CUDA_VISIBLE_DEVICES: $*"\n'
        'echo "$JAX_COORDINATOR_ADDRESS"\n'
    )
    for file in (gpus, python):
        file.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return {"AMDJAX_PYTHON": str(python), "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_multiprocess_gives_each_process_its_id_gpu_and_flags(print_environment):
    code, out, err = finish([*SCRIPT, "2", "--workdir=with space"], **print_environment)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    addresses = [line for line in lines if line.startswith("127.0.0.1:")]
    assert len(addresses) == 2
    assert len(set(addresses)) == 1
    assert sorted(set(lines) - set(addresses)) == [
        f"{index} of 2 on {index}: -m amdjax.main --stop_code=75 --workdir=with space"
        for index in range(2)
    ]


def test_multiprocess_uses_the_visible_gpus_only(print_environment):
    chosen = {**print_environment, "CUDA_VISIBLE_DEVICES": "3,5"}
    _, out, _ = finish([*SCRIPT, "2"], **chosen)
    assert "0 of 2 on 3:" in out
    assert "1 of 2 on 5:" in out


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_multiprocess_uses_no_gpu_where_all_are_hidden(print_environment, hidden):
    code, out, err = finish([*SCRIPT, "3"], **print_environment, CUDA_VISIBLE_DEVICES=hidden)
    assert (code, err) == (0, "")
    assert f"2 of 3 on {hidden}:" in out


def test_multiprocess_says_that_nvidia_smi_fails(print_environment, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    code, out, err = finish([*SCRIPT, "2"], **print_environment)
    assert (code, out) == (2, "")
    assert err == "error: nvidia-smi lists no GPUs: no driver; CUDA_VISIBLE_DEVICES= uses none\n"


@pytest.mark.parametrize("version", ["(4 4)", "(5 0)"])
def test_multiprocess_refuses_an_old_bash(print_environment, version):
    script = (ROOT / SCRIPT[1]).read_text().replace("BASH_VERSINFO", "VERSION")
    words = ["bash", "-c", f"VERSION={version}\n{script}", SCRIPT[1], "2"]
    code, out, err = finish(words, **print_environment)
    assert (code, out) == (2, "")
    assert "multiprocess.sh needs bash 5.1" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "the number of processes is missing"), (["3"], "3 processes are too many for 2 GPUs")],
)
def test_multiprocess_reports_mistakes_in_one_line(print_environment, words, message):
    code, out, err = finish([*SCRIPT, *words], **print_environment)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_multiprocess_says_that_it_was_stopped_before_the_training(tmp_path, start_process):
    started, python = tmp_path / "started", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        f'echo "$JAX_PROCESS_ID" >> {started}\nexec sleep 60\n'
    )
    python.chmod(0o755)
    environment = {"AMDJAX_PYTHON": str(python), "CUDA_VISIBLE_DEVICES": ""}
    job = start_process([*SCRIPT, "2", "--config=digits.py"], **environment)
    wait_for_lines(started, 2, job)
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert err == "stopped before the training began; repeat the command\n"
    assert job.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_multiprocess_ends_all_after_a_death_and_saves_after_sigterm(
    images, tmp_path, start_process
):
    flags = ["--config.epochs=100", "--config.checkpoint_every_steps=1"]
    words = command(images, tmp_path, *flags, methods="scratch")[3:]
    environment = {
        "AMDJAX_PYTHON": sys.executable,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    folder = tmp_path / "scratch"

    job = start_process([*SCRIPT, "2", *words], **environment)
    wait_for_lines(folder / "metrics.jsonl", 3, job)
    children = _children(job)
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGKILL
    assert err.splitlines()[-1] == "error: a process ended with code 137; the others are stopped"
    assert not any(Path(f"/proc/{child}").exists() for child in children)

    job = start_process([*SCRIPT, "2", *words], **environment)
    restored = complete_steps(folder)[-1]
    while len(list(folder.glob("events*"))) < 2:  # before its first step
        assert job.poll() is None, job.communicate()
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=120)
    assert job.returncode == os.EX_TEMPFAIL, err
    assert "error" not in err
    assert out.count("stopped during scratch; repeat the command to resume") == 1
    assert restored < complete_steps(folder)[-1] <= restored + 2
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == complete_steps(folder)[-1]
