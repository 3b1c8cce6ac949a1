"""`launch/gpu.sh`: which Python it uses, and what it tells it."""

import sys

import pytest

from tests.tiny_run import finish


@pytest.fixture
def python(tmp_path):
    """A Python that only prints its arguments, and the packages it would look for first."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\necho "$*; $PYTHONPATH"\n')
    path.chmod(0o755)
    return str(path)


def test_gpu_script_uses_an_environment_with_the_wheels_of_a_folder(python, tmp_path):
    (tmp_path / "x.whl").touch()
    command = ["bash", "launch/gpu.sh", "--minutes=9"]
    environment = {
        "AMDJAX_PYTHON": python,
        "WHEELS": str(tmp_path),
        "PYTORCH_PYTHON": sys.executable,
    }
    code, out, err = finish(command, **environment)
    assert code == 0, err
    install, measure = out.splitlines()
    assert install.startswith("-m pip install ")
    assert "--no-index --no-deps --upgrade --target " in install
    assert f"{tmp_path}/x.whl" in install
    words, packages = measure.split("; ")
    flags = f"--out=runs/gpu --pytorch_python={sys.executable} --minutes=9"
    assert words == f"-m benchmarks.accelerator {flags}"
    assert packages.partition(":")[0].endswith("runs/gpu-packages")
