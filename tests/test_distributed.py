"""Several processes: the numbers of one process, shared checkpoints, the death of a process."""

import dataclasses
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.checkpoint import wait_for_folder
from amdjax.errors import UserError
from amdjax.training.run import run
from tests.tiny_run import (
    QUICK_COMPILATION,
    command,
    complete_steps,
    finish,
    metrics_lines,
    tiny_config,
    wait_for_lines,
)

FLAGS = ["--config.batch_size=4", "--config.checkpoint_every_steps=2"]  # 16 steps an epoch


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A compilation cache that all runs of this module share."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }


@pytest.fixture(scope="module")
def one(images, tmp_path_factory, environment):
    """Two epochs of one process with one device."""
    workdir = tmp_path_factory.mktemp("one")
    code, _, err = finish(command(images, workdir, *FLAGS), **environment)
    assert code == 0, err
    return workdir


def _start_two(start_process, *commands, **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start_process(
            words,
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            XLA_FLAGS=f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=2",
            **environment,
        )
        for index, words in enumerate(commands)
    ]


def _without_gloo(out):
    """Returns the output of amdjax, without the lines of JAX's CPU collectives.

    Threads of Gloo print at the same time, piece by piece, so only the pieces can be matched.
    """
    pieces = (
        r"\[Gloo\] Rank |is connected to |peer ranks\. |"
        r"Expected number of connected peer ranks is : |\d+|\s+"
    )
    return re.sub(pieces, "", out)


def _assert_reports_peer_failure(process, err):
    """The process ended because the other one did, and its error says so."""
    if process.returncode == -signal.SIGABRT:  # a thread of JAX's was the first to see it
        assert "another task died" in err
    else:
        assert process.returncode == 1, err
        assert "error: another process of this job ended" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert "Fatal Python error" not in err


@pytest.mark.slow
def test_killed_processes_resume_as_one_with_the_same_numbers(
    images, one, tmp_path, start_process, environment
):
    given = f"--config.teacher.checkpoint={one / 'teacher'}"
    words = command(images, tmp_path, *FLAGS, given)
    student = tmp_path / "amd_gl"

    first, second = _start_two(start_process, words, words, **environment)
    wait_for_lines(student / "metrics.jsonl", 5, first)
    second.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    _assert_reports_peer_failure(first, err)
    kept = [line for line in metrics_lines(student) if line["step"] <= complete_steps(student)[-1]]
    assert len(kept) >= 4

    first, second = _start_two(start_process, words, words, **environment)
    wait_for_lines(student / "metrics.jsonl", 18, first)  # 16 steps, an evaluation, one more step
    first.send_signal(signal.SIGKILL)
    out, err = second.communicate(timeout=60)
    assert _without_gloo(out) == ""
    _assert_reports_peer_failure(second, err)
    by_two = metrics_lines(student)

    code, _, err = finish(words, **environment)
    assert code == 0, err
    ours, theirs = metrics_lines(student), metrics_lines(one / "amd_gl")
    assert ours[:4] == kept[:4]  # not trained again: the speeds are the same, too
    assert ours[:17] == by_two[:17]
    assert [(line["split"], line["step"]) for line in ours] == [
        (line["split"], line["step"]) for line in theirs
    ]
    for line, expected in zip(ours[:10], theirs[:10], strict=True):
        for name in ("loss", "ce", "kd", "am"):
            np.testing.assert_allclose(line[name], expected[name], rtol=1e-5, atol=1e-5)
    evaluation, expected = ours[16], theirs[16]  # by two processes and by one: more rounding
    assert evaluation["split"] == "test"
    assert evaluation["accuracy"] == expected["accuracy"]
    np.testing.assert_allclose(evaluation["nll"], expected["nll"], rtol=1e-3)
    assert complete_steps(student)[-1] == 32
    assert len(complete_steps(student)) == len(list((student / "checkpoints").iterdir())) <= 3


@pytest.mark.slow
def test_user_error_in_one_process_ends_the_others(images, tmp_path, start_process):
    words = command(images, tmp_path, "--config.max_steps=2", methods="scratch")
    first, second = _start_two(
        start_process, words, [*words, f"--config.data.folder={tmp_path / 'no'}"]
    )
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert err.startswith(f"error: {tmp_path / 'no'} is not a folder")
    assert len(err.splitlines()) == 1
    _, err = first.communicate(timeout=60)
    _assert_reports_peer_failure(first, err)


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(images, tmp_path, start_process):
    words = command(images, tmp_path, methods="scratch")
    for process in _start_two(start_process, words, [*words, "--config.losses.ce.weight=0.5"]):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert (
            "error: process 1 has different settings, or a different version of amdjax, from" in err
        )
        assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["teacher.checkpoint", "init_from"])
def test_processes_that_read_other_weights_are_refused(
    setting, images, one, tmp_path, start_process
):
    older = tmp_path / "older"
    shutil.copytree(one / "teacher", older)
    shutil.rmtree(older / "checkpoints" / str(complete_steps(older)[-1]))
    words = command(
        images, tmp_path / "run", f"--config.teacher.checkpoint={one / 'teacher'}", methods="kd"
    )
    words.append("--config.student.name=wrn_10_1")
    first, second = (f"--config.{setting}={folder}" for folder in (one / "teacher", older))
    for process in _start_two(start_process, [*words, first], [*words, second]):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        name = setting.removesuffix(".checkpoint")
        assert f"error: process 1 reads different weights of config.{name} from process 0" in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_processes_that_read_other_images_are_refused(images, tmp_path, start_process):
    other = tmp_path / "other"
    shutil.copytree(images, other)
    next(iter((other / "train").rglob("*.png"))).unlink()
    words = command(images, tmp_path / "run", methods="scratch")
    flags = [f"--config.data.folder={other}", f"--config.data.data_dir={tmp_path / 'prepared'}"]
    for process in _start_two(start_process, words, [*words, *flags]):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert (
            "error: process 1 reads different images, classes or outputs of a teacher from" in err
        )
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("reason", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:7068", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes", False),
        ("INTERNAL: Failed to compile", False),
    ],
)
def test_is_peer_failure_recognises_errors_of_collectives(monkeypatch, reason, lost):
    error = jax.errors.JaxRuntimeError(reason)
    assert not distributed.is_peer_failure(error)  # there is one process
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert distributed.is_peer_failure(error) == lost
    assert not distributed.is_peer_failure(ValueError(reason))


def test_wait_for_folder_names_a_folder_that_is_not_shared(tmp_path):
    wait_for_folder(tmp_path, seconds=0)
    with pytest.raises(UserError, match=r"does not see .*runs.*on a disk that all machines share"):
        wait_for_folder(tmp_path / "runs", seconds=0)


@pytest.mark.parametrize("count", ["", "two", "-2"])
def test_initialize_refuses_an_incomplete_environment(monkeypatch, count):
    for name, value in (
        ("COORDINATOR_ADDRESS", "x:1"),
        ("PROCESS_ID", "0"),
        ("NUM_PROCESSES", count),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(UserError, match=f"JAX_NUM_PROCESSES='{count}' must be a number"):
        distributed.initialize()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"COORDINATOR_ADDRESS": "x:1", "NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is not set"),
        ({"NUM_PROCESSES": "2", "PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS is not set"),
        ({"COORDINATOR_ADDRESS": "x:1", "PROCESS_ID": "1"}, "JAX_NUM_PROCESSES is not set"),
        (
            {"COORDINATOR_ADDRESS": "x:1", "NUM_PROCESSES": "2", "PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2 must be below JAX_NUM_PROCESSES=2",
        ),
    ],
)
def test_initialize_refuses_variables_that_do_not_fit(monkeypatch, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(UserError, match=message):
        distributed.initialize()


def test_initialize_names_a_computation_before_it(images, monkeypatch):
    jax.devices()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "x:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    with pytest.raises(UserError, match=r"one of several processes.*before it could connect"):
        distributed.initialize()
    with pytest.raises(UserError, match="one of several processes"):
        run(tiny_config(images, ("kd",)), "unused")


def test_check_devices_names_a_plugin_that_is_not_installed(monkeypatch):
    """JAX then fails at an assertion without words."""

    def fail():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UserError, match="its plugin is not installed or finds none; install JAX"):
        distributed.check_devices()


def test_initialize_ignores_the_tasks_of_a_job_in_an_interactive_shell(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4(x2)")
    for tasks in (None, "1"):
        if tasks:
            monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
        distributed.initialize()
        assert not jax.distributed.is_initialized()


def test_initialize_takes_the_tasks_of_a_step(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4(x2)")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    settings = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **words: settings.append(words))
    distributed.initialize()
    assert settings[0]["num_processes"] == 8


def test_compilation_cache_is_left_out_without_a_home_folder(monkeypatch):
    monkeypatch.setattr(distributed, "on_accelerator", lambda: True)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def fail(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    distributed.enable_compilation_cache()
    assert not jax.config.jax_compilation_cache_dir


@pytest.mark.parametrize(
    ("accelerator", "before", "after"),
    [(True, None, "{}/amdjax/xla"), (True, "mine", "mine"), (False, None, None)],
)
def test_compilation_cache_is_kept_on_accelerators(
    monkeypatch, tmp_path, accelerator, before, after
):
    monkeypatch.setattr(distributed, "on_accelerator", lambda: accelerator)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", before)
        distributed.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == (after and after.format(tmp_path))
    finally:
        jax.config.update("jax_compilation_cache_dir", found)


@pytest.mark.parametrize("devices", [1, 4])
def test_replicate_gives_the_same_arrays_with_and_without_comparison(devices):
    mesh = distributed.make_mesh(jax.devices()[:devices])
    arrays = {"image": np.arange(12, dtype=np.uint8).reshape(3, 4), "scalar": np.float32(2)}
    one = distributed.replicate(arrays, mesh)
    other = distributed.replicate(arrays, mesh, compare=False)
    for name, array in arrays.items():
        assert one[name].sharding == other[name].sharding
        assert one[name].sharding.is_fully_replicated
        assert one[name].dtype == other[name].dtype == array.dtype
        np.testing.assert_array_equal(one[name], array)
        np.testing.assert_array_equal(other[name], array)


REPLICATE = """
import jax
import numpy as np
from jax.experimental import multihost_utils
from amdjax import distributed
distributed.initialize()
compared = []
compare = multihost_utils.assert_equal
multihost_utils.assert_equal = lambda x, **words: (compared.append(x.shape), compare(x, **words))
mesh = distributed.make_mesh()
rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
arrays = [distributed.replicate(rows, mesh, compare=compare_them) for compare_them in (False, True)]
assert arrays[0].sharding == arrays[1].sharding
for array in arrays:
    assert array.shape == (3, 4) and array.dtype == np.uint8 and len(array.sharding.device_set) == 4
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, rows)
print(compared)
"""


def test_replicate_sends_nothing_to_other_processes_without_comparison(start_process):
    words = [sys.executable, "-c", REPLICATE]
    for process in _start_two(start_process, words, words):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "[(3, 4)]" in out


@dataclasses.dataclass(frozen=True)
class _Gpu:
    id: int
    process_index: int
    platform = "gpu"

    @property
    def slice_index(self):  # each machine is a slice of its own
        return self.process_index


def test_mesh_has_the_devices_of_two_machines_in_the_order_of_their_processes():
    devices = [_Gpu(number, process) for number, process in enumerate((0, 0, 1, 1, 0, 0, 1, 1))]
    mesh = distributed.make_mesh(devices)
    assert [device.id for device in mesh.devices] == [0, 1, 4, 5, 2, 3, 6, 7]


ALTERNATING_DEVICES = """
import jax
import numpy as np
from amdjax import distributed
distributed.initialize()
devices = jax.devices()
jax.devices = lambda *names: [devices[index] for index in (0, 2, 1, 3)]
from amdjax.training.teacher_cache import cache_teacher_outputs
from tests.training.test_teacher_cache import numbering_trainer
mesh = distributed.make_mesh()
rows = np.arange(4) + 4 * jax.process_index()
gathered = distributed.shard_step(distributed.all_gather, mesh, 0)(distributed.shard(rows, mesh))
print("batch", np.asarray(gathered).tolist())
print("cache", cache_teacher_outputs(numbering_trainer(mesh), {}).logits.ravel().tolist())
"""


def test_processes_whose_devices_alternate_share_a_batch_in_its_order(start_process):
    words = [sys.executable, "-c", ALTERNATING_DEVICES]
    for process in _start_two(start_process, words, words):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert f"batch {list(range(8))}" in out
        assert f"cache {[float(number) for number in range(10)]}" in out


POLL = """
import time
from amdjax import distributed
from amdjax.preemption import Preemption
distributed.initialize()
with Preemption() as preemption:
    print("ready", flush=True)
    polls = 1
    while not preemption.requested():
        time.sleep(0.01)
        polls += 1
print(polls, "polls")
"""


def test_preemption_stops_all_processes_at_ctrl_c_of_one(start_process):
    words = [sys.executable, "-c", POLL]
    first, second = _start_two(start_process, words, words)
    for process in (first, second):
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None, process.communicate()
    second.send_signal(signal.SIGINT)
    polls = []
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        polls.append(re.search(r"\d+ polls", out)[0])
    assert polls[0] == polls[1]
