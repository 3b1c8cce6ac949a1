"""`launch/slurm.sbatch` on a real Slurm of this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_run import QUICK_COMPILATION, ROOT, command, finish

CLUSTER = ["bash", str(Path(__file__).with_name("slurm.sh"))]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm with this machine as its only node, until the end of the test."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    for program in ("slurmctld", "munged"):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"{program} is not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("only root can run a Slurm of its own")
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm" / "slurm.conf"))
    subprocess.run([*CLUSTER, "start", tmp_path / "slurm"], check=True)
    yield
    subprocess.run([*CLUSTER, "stop", tmp_path / "slurm"], check=True)


@pytest.mark.slow
def test_slurm_tasks_give_the_numbers_of_one_process(cluster, images, tmp_path):
    flags = ["--config.max_steps=4", "--config.log_every_steps=2"]
    code, _, err = finish(command(images, tmp_path / "one", *flags, methods="scratch"))
    assert code == 0, err

    words = command(images, tmp_path / "two", *flags, methods="scratch")[3:]
    output = tmp_path / "output"
    code, _, _ = finish(
        [
            *("sbatch", "--wait", f"--output={output}"),
            *("--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0"),
            *("launch/slurm.sbatch", *words),
        ],
        AMDJAX_PYTHON=sys.executable,
        XLA_FLAGS=f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=2",
    )
    assert code == 0, output.read_text()
    # Four devices in two processes, as JAX's CPU collectives tell.
    assert "Rank 3 is connected to 3 peer ranks" in output.read_text()
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text())["methods"]["scratch"]["final"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=1e-5, atol=1e-5)


def test_slurm_gives_each_task_its_cores(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s " "$@"\nexit 3\n')
    srun.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_CPUS_PER_TASK": "6",
        "AMDJAX_PYTHON": "python",
    }
    words = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--config=digits.py"]
    result = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert result.returncode == 3
    assert result.stdout.split() == [
        *("--cpus-per-task=6", "python", "-m", "amdjax.main", "--stop_code=75"),
        "--config=digits.py",
    ]


def test_slurm_refuses_another_folder(tmp_path):
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)}
    words = ["bash", str(ROOT / "launch" / "slurm.sbatch")]
    result = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: submit in amdjax's folder")
    assert len(result.stderr.splitlines()) == 1
