"""Several processes: the numbers of one, one checkpoint, and the death of one of them."""

import json
import re
import signal
import socket

import jax
import numpy as np
import pytest

from amdjax import distributed
from amdjax.checkpoint import wait_for_folder
from amdjax.errors import UserError
from tests.tiny_run import QUICK_COMPILATION, command, finish, wait_for_lines

FLAGS = ["--config.batch_size=4", "--config.checkpoint_every_steps=2"]  # 16 steps an epoch


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What is compiled once serves all runs of this module."""
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


def _start_two(begin, *commands, **environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        begin(
            words,
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(index),
            XLA_FLAGS=f"{QUICK_COMPILATION} --xla_force_host_platform_device_count=2",
            **environment,
        )
        for index, words in enumerate(commands)
    ]


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _checkpoints(folder):
    """The steps of the whole checkpoints; a killed run may leave a part of another."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def _own_words(out):
    """What amdjax printed, without what JAX's CPU collectives say of their connections.

    Threads of Gloo print at the same time, piece by piece, so that the pieces and not the lines
    are what can be known.
    """
    pieces = (
        r"\[Gloo\] Rank |is connected to |peer ranks\. |"
        r"Expected number of connected peer ranks is : |\d+|\s+"
    )
    return re.sub(pieces, "", out)


def _assert_left_alone(process, err):
    """The process ended because the other one did, and says so."""
    if process.returncode == -signal.SIGABRT:  # a thread of JAX's was the first to see it
        assert "another task died" in err
    else:
        assert process.returncode == 1, err
        assert "error: another process of this job ended" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert "Fatal Python error" not in err


@pytest.mark.slow
def test_two_processes_that_die_and_then_one_give_what_one_gives(
    images, one, tmp_path, begin, environment
):
    given = f"--config.teacher.checkpoint={one / 'teacher'}"
    words = command(images, tmp_path, *FLAGS, given)
    student = tmp_path / "amd_gl"

    first, second = _start_two(begin, words, words, **environment)
    wait_for_lines(student / "metrics.jsonl", 5, first)
    second.send_signal(signal.SIGKILL)
    _, err = first.communicate(timeout=60)
    _assert_left_alone(first, err)
    kept = [line for line in _lines(student) if line["step"] <= _checkpoints(student)[-1]]
    assert len(kept) >= 4

    first, second = _start_two(begin, words, words, **environment)
    wait_for_lines(student / "metrics.jsonl", 18, first)  # 16 steps, an evaluation, one more step
    first.send_signal(signal.SIGKILL)
    out, err = second.communicate(timeout=60)
    assert _own_words(out) == ""
    _assert_left_alone(second, err)
    by_two = _lines(student)

    code, _, err = finish(words, **environment)
    assert code == 0, err
    ours, theirs = _lines(student), _lines(one / "amd_gl")
    assert ours[:4] == kept[:4]  # not trained again: the speeds are the same, too
    assert ours[:17] == by_two[:17]
    assert [(line["split"], line["step"]) for line in ours] == [
        (line["split"], line["step"]) for line in theirs
    ]
    for line, expected in zip(ours[:10], theirs[:10], strict=True):
        for name in ("loss", "ce", "kd", "am"):
            np.testing.assert_allclose(line[name], expected[name], rtol=1e-5, atol=1e-5)
    evaluation, expected = ours[16], theirs[16]  # by two, and by one; behind more rounding
    assert evaluation["split"] == "test"
    assert evaluation["accuracy"] == expected["accuracy"]
    np.testing.assert_allclose(evaluation["nll"], expected["nll"], rtol=1e-3)
    assert _checkpoints(student)[-1] == 32
    assert len(_checkpoints(student)) == len(list((student / "checkpoints").iterdir())) <= 2


@pytest.mark.slow
def test_the_mistake_of_one_process_ends_the_others(images, tmp_path, begin):
    words = command(images, tmp_path, "--config.max_steps=2", methods="scratch")
    first, second = _start_two(begin, words, [*words, f"--config.data.folder={tmp_path / 'no'}"])
    _, err = second.communicate(timeout=120)
    assert second.returncode == 2
    assert err.startswith(f"error: {tmp_path / 'no'} cannot be listed")
    assert len(err.splitlines()) == 1
    _, err = first.communicate(timeout=60)
    _assert_left_alone(first, err)


@pytest.mark.parametrize(
    ("reason", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:7068", True),
        ("UNAVAILABLE: Failed to send RPC to coordination service", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 42 bytes", False),
        ("INTERNAL: Failed to compile", False),
    ],
)
def test_only_what_the_others_cause_is_laid_to_them(monkeypatch, reason, lost):
    error = jax.errors.JaxRuntimeError(reason)
    assert not distributed.is_peer_failure(error)  # there are no others
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert distributed.is_peer_failure(error) == lost
    assert not distributed.is_peer_failure(ValueError(reason))


def test_a_folder_that_only_the_first_process_sees_is_named(tmp_path):
    wait_for_folder(tmp_path, seconds=0)
    with pytest.raises(UserError, match=r"does not see .*runs.*on a disk that all machines share"):
        wait_for_folder(tmp_path / "runs", seconds=0)


@pytest.mark.parametrize("count", ["", "two", "-2"])
def test_an_incomplete_environment_is_said(monkeypatch, count):
    for name, value in (
        ("COORDINATOR_ADDRESS", "x:1"),
        ("PROCESS_ID", "0"),
        ("NUM_PROCESSES", count),
    ):
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(UserError, match=f"JAX_NUM_PROCESSES='{count}' must be a number"):
        distributed.initialize()
