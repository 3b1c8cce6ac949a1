"""The calls of gcloud by `launch/tpu_pod.sh`, with a fake gcloud that runs commands locally."""

import contextlib
import os
import signal
import sys

import pytest

from tests.tiny_run import finish, wait_for_lines

SCRIPT = ["bash", "launch/tpu_pod.sh"]
# Records each call, one argument a line; replies for a slice of two hosts; and runs the commands of
# a host, except the installation, with a Python that prints its environment and arguments.
GCLOUD = f"""#!{sys.executable}
import os, pathlib, subprocess, sys

folder = pathlib.Path(__file__).parent
with (folder / "calls").open("a") as calls:
    print(*sys.argv[1:], sep="\\n", end="\\n\\n", file=calls)
words = " ".join(sys.argv)
if " tpu-vm describe " in words:
    print("10.0.0.2;10.0.0.3")
command = sys.argv[-1].removeprefix("--command=")
if command != sys.argv[-1] and "install.sh" not in command:
    sys.exit(subprocess.run(["sh", "-c", command], cwd=folder).returncode)
"""
PYTHON = """#!/bin/sh
echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"
printf '%s\\n' "$@"
"""
TRAINING = """#!/bin/sh
trap 'echo saved; exit' TERM
echo step 1
for _ in $(seq 1200); do sleep 0.05; done
"""


@pytest.fixture
def machine(tmp_path):
    """A folder with gcloud, and the environment in which it is found."""
    programs = {
        "gcloud": GCLOUD,
        "curl": "#!/bin/sh\necho 1\n",  # the host's number, from the metadata server
        "amdjax/.venv/bin/python": PYTHON,
    }
    for name, text in programs.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def _calls(folder):
    return [call.split("\n") for call in (folder / "calls").read_text().strip().split("\n\n")]


def test_tpu_pod_creates_reports_and_deletes_a_slice(machine):
    folder, environment = machine
    slice_ = ("pod", "us-east5-a")
    create = ["create", *slice_, "v5litepod-16", "v2-alpha-tpuv5-lite", "--spot"]
    for words in (create, ["status", *slice_], ["delete", *slice_]):
        code, _, err = finish([*SCRIPT, *words], **environment)
        assert (code, err) == (0, "")
    queued = ["compute", "tpus", "queued-resources"]
    assert _calls(folder) == [
        [
            *(*queued, "create", "pod", "--node-id=pod", "--zone=us-east5-a"),
            *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
        ],
        [*queued, "describe", "pod", "--zone=us-east5-a", "--format=value(state.state)"],
        [*queued, "delete", "pod", "--zone=us-east5-a", "--force", "--quiet"],
    ]


def test_tpu_pod_copies_installs_and_trains_on_every_host(machine):
    folder, environment = machine
    flags = ["--config=configs/cifar10.py:a", "--workdir=/disk/it's here"]
    code, out, err = finish([*SCRIPT, "run", "pod", "us-east5-a", *flags], **environment)
    assert (code, err) == (0, "")
    assert out.splitlines() == ["1 of 2 at 10.0.0.2:8476", "-m", "amdjax.main", *flags]
    _, _, copy, install, _ = _calls(folder)
    assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copy[4].endswith("/amdjax.tar.gz")
    assert copy[5:] == ["pod:", "--zone=us-east5-a", "--worker=all"]
    assert install[:6] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-east5-a"]
    assert install[6] == "--worker=all"
    assert any("launch/install.sh requirements.txt" in line for line in install)


def test_tpu_pod_exits_with_the_code_of_the_training(machine):
    folder, environment = machine
    (folder / "amdjax/.venv/bin/python").write_text("#!/bin/sh\necho failed >&2\nexit 3\n")
    code, out, _ = finish([*SCRIPT, "run", "pod", "us-east5-a"], **environment)
    assert (code, out) == (3, "failed\n")


def test_tpu_pod_training_outlives_the_connection_until_it_is_stopped(machine, start_process):
    folder, environment = machine
    pod = ("pod", "us-east5-a")
    (folder / "amdjax/.venv/bin/python").write_text(TRAINING)
    # These tests may run under nohup, whose children ignore SIGHUP.
    words = ["env", "--default-signal=HUP", "setsid", *SCRIPT, "run", *pod]
    connection = start_process(words, **environment)
    for name in ("train.log", "train.pid"):
        wait_for_lines(folder / "amdjax" / name, 1, connection)
    training = int((folder / "amdjax/train.pid").read_text())
    try:
        os.killpg(connection.pid, signal.SIGHUP)
        assert connection.wait(60) == -signal.SIGHUP
        code, _, err = finish([*SCRIPT, "run", *pod], **environment)
        assert (code, err.count("error: a training is running on this slice")) == (2, 1)
        display = start_process([*SCRIPT, "attach", *pod], **environment)
        assert display.stdout.readline() == "step 1\n"
        assert finish([*SCRIPT, "stop", *pod], **environment) == (0, "", "")
        assert display.communicate(timeout=60) == ("saved\n", "")
        assert display.returncode == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(training, signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of create, status, run, attach, stop, delete is missing"),
        (["start", "pod", "zone"], "one of create, status, run, attach, stop, delete is missing"),
        (["run", "pod"], "run needs NAME and ZONE"),
        (["create", "pod", "zone", "v6e-16"], "create needs NAME ZONE TYPE RUNTIME"),
    ],
)
def test_tpu_pod_prints_its_usage_after_mistakes(machine, words, message):
    folder, environment = machine
    code, out, err = finish([*SCRIPT, *words], **environment)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}\n")
    assert "bash launch/tpu_pod.sh run NAME ZONE" in err
    assert not (folder / "calls").exists()


def test_tpu_pod_reports_a_missing_gcloud(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    code, out, err = finish([*SCRIPT, "status", "pod", "zone"], PATH=str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: gcloud is not installed")
    assert len(err.splitlines()) == 1
