"""The checkpoints of a run: which are kept, and what happens to damaged ones."""

import datetime
import errno
import os
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amdjax import checkpoint, checkpoint_files, distributed
from amdjax.checkpoint import Checkpoints, read_network
from amdjax.checkpoint_files import has_checkpoint, read_description, read_evaluation, read_origin
from amdjax.errors import UserError

DESCRIPTION = {"method": "kd", "settings": {"epochs": 3}}


def _state(step):
    return {"params": {"w": jnp.full((3, 2), step)}, "step": jnp.asarray(step, jnp.int32)}


def _save(run, accuracies, partial_sums=None):
    with Checkpoints(run, DESCRIPTION) as checkpoints:
        for step, accuracy in accuracies.items():
            evaluation = None if accuracy is None else {"accuracy": accuracy}
            checkpoints.save(step, _state(step), evaluation, partial_sums)


def _steps(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def _flip(file, bit=0):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    file.write_bytes(bytes(content))


def _array_file(run, step):
    return next((run / "checkpoints" / str(step) / "default").rglob("d/*"))


def test_checkpoints_keep_the_last_two_and_the_best(tmp_path):
    _save(tmp_path, {4: 0.5, 8: 0.9, 12: None, 16: 0.4, 20: 0.3})
    assert _steps(tmp_path) == [8, 16, 20]
    with Checkpoints(tmp_path) as checkpoints:
        evaluations = {8: {"accuracy": 0.9}, 16: {"accuracy": 0.4}, 20: {"accuracy": 0.3}}
        assert checkpoints.evaluations() == evaluations
    assert read_evaluation(tmp_path) == {"accuracy": 0.3}


def test_read_origin_returns_the_process_that_saved_the_newest_checkpoint(tmp_path, monkeypatch):
    assert read_origin(tmp_path) == {}
    monkeypatch.setattr(checkpoint, "__version__", "0.0")
    _save(tmp_path, {4: 0.5})
    first = read_origin(tmp_path)
    assert first["version"] == "0.0"
    assert (first["device"], first["devices"]) == (jax.devices()[0].device_kind, 4)
    date = datetime.datetime.fromisoformat(first["date"])
    assert date.utcoffset() == datetime.timedelta()
    monkeypatch.setattr(checkpoint, "__version__", "0.1")
    assert read_origin(tmp_path) == first
    _save(tmp_path, {8: 0.5})
    assert read_origin(tmp_path)["version"] == "0.1"


def test_restore_latest_returns_state_and_log(tmp_path):
    assert not has_checkpoint(tmp_path)
    _save(tmp_path, {4: None}, partial_sums={"sums": {"loss": 0.1 + 0.2}, "count": 3})
    assert has_checkpoint(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(_state(0))
        assert checkpoints.restore_partial_sums() == {"sums": {"loss": 0.1 + 0.2}, "count": 3}
    np.testing.assert_array_equal(restored["params"]["w"], np.full((3, 2), 4))


@pytest.mark.parametrize("bit", [0, 7])
def test_flipped_bit_is_found_and_the_checkpoint_before_is_used(tmp_path, capsys, bit):
    _save(tmp_path, {4: 0.5, 8: 0.9})
    _flip(_array_file(tmp_path, 8), bit)
    step, network = read_network(tmp_path)
    assert (step, network["params"]["w"][0, 0]) == (4, 4)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: {tmp_path / 'checkpoints' / '8'} is damaged (default/")
    assert "has changed" in note
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
        checkpoints.save(8, _state(8), {"accuracy": 0.9})
        assert checkpoints.latest_step() == 8
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert read_network(tmp_path)[0] == 8


@pytest.mark.parametrize("kept", [[], ["metrics"], ["_CHECKPOINT_METADATA"]])
def test_checkpoint_without_a_state_is_removed(tmp_path, kept, capsys):
    _save(tmp_path, {4: 0.5, 8: 0.9})
    for path in (tmp_path / "checkpoints" / "8").iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 4
    assert "8 was damaged or incomplete (default is missing)" in capsys.readouterr().err


def test_read_network_logs_no_warning(tmp_path, caplog):
    _save(tmp_path, {4: 0.5})
    read_network(tmp_path)
    assert caplog.messages == []


def test_all_checkpoints_damaged_names_what_to_remove(tmp_path):
    _save(tmp_path, {4: 0.5, 8: 0.9})
    for step in (4, 8):
        _flip(_array_file(tmp_path, step))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged .*remove that folder"):
        Checkpoints(tmp_path)
    assert _steps(tmp_path) == [4, 8]
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        read_network(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None


def test_checkpoint_is_not_called_damaged_where_jax_has_no_device(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    _save(tmp_path, {4: 0.5})
    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UserError, match="JAX has no device for JAX_PLATFORMS"):
        read_network(tmp_path)


def test_file_in_place_of_the_checkpoints_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match="checkpoints is not a folder; remove it"):
        Checkpoints(tmp_path)


def test_description_is_read_from_a_checkpoint_in_which_it_is_unchanged(tmp_path):
    assert read_description(tmp_path) is None
    _save(tmp_path, {4: 0.5, 8: 0.9})
    assert read_description(tmp_path) == DESCRIPTION
    _flip(tmp_path / "checkpoints" / "8" / "run" / "metadata")
    assert read_description(tmp_path) == DESCRIPTION
    _flip(tmp_path / "checkpoints" / "4" / "run" / "metadata")
    assert read_description(tmp_path) is None


def test_checkpoint_that_does_not_fit_is_named(tmp_path):
    _save(tmp_path, {4: 0.5})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match=r"4 cannot be read: .*; remove that folder"),
    ):
        checkpoints.restore_latest({**_state(0), "ema": jnp.zeros(2)})


class _Network(NamedTuple):
    params: dict[str, Any]
    step: jax.Array


def test_checkpoint_of_a_network_whose_code_has_changed_is_not_called_damaged(tmp_path):
    _save(tmp_path, {4: 0.5})
    wider = _Network({"w": jnp.zeros((3, 4))}, jnp.zeros((), jnp.int32))
    message = (
        r"code has changed since .*/4 was written; restore the code.*'w' has the shape \(3, 2\)"
    )
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore_latest(wider)


def _fail_to_read(monkeypatch, step, code, named=True):
    """Lets the system report an error for the files of a step's checkpoint."""
    read = checkpoint_files._checksum

    def fail(file):
        if f"/checkpoints/{step}/" in str(file):
            raise OSError(code, os.strerror(code), *[str(file)] * named)
        return read(file)

    monkeypatch.setattr(checkpoint_files, "_checksum", fail)


def test_checkpoint_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    _save(tmp_path, {4: 0.5, 8: 0.9})
    for code in (errno.EACCES, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT):
        with monkeypatch.context() as patch:
            _fail_to_read(patch, 8, code)
            for read in (Checkpoints, read_network):
                with pytest.raises(UserError, match=r"cannot be read now: .*nothing was removed"):
                    read(tmp_path)
        assert _steps(tmp_path) == [4, 8]
    assert read_network(tmp_path)[0] == 8


def test_checkpoint_on_a_failing_disk_is_renamed(tmp_path, monkeypatch, capsys):
    _save(tmp_path, {4: 0.5, 8: 0.9})
    with monkeypatch.context() as patch:
        _fail_to_read(patch, 8, errno.EIO, named=False)  # as an error of `read` comes
        with Checkpoints(tmp_path, DESCRIPTION) as checkpoints:
            assert checkpoints.latest_step() == 4
    assert "8 was damaged or incomplete (Input/output error)" in capsys.readouterr().err
    _save(tmp_path, {8: 0.9})
    assert read_network(tmp_path)[0] == 8
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "8", "8.damaged"}


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), UserError, "cannot be read now"),
        (OSError(errno.ESTALE, "Stale file handle"), UserError, "cannot be read now"),
        (ValueError("Failed to open [os_error_code='110']"), UserError, "cannot be read now"),
        (ValueError("Failed to open [os_error_code='2']"), UserError, "remove that folder"),
        (OSError(errno.EIO, "Input/output error"), UserError, "remove that folder"),
        (MemoryError(), MemoryError, "^$"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            jax.errors.JaxRuntimeError,
            "RESOURCE_EXHAUSTED",
        ),
        (
            jax.errors.JaxRuntimeError("UNAVAILABLE: connection closed"),
            jax.errors.JaxRuntimeError,
            "UNAVAILABLE",
        ),
    ],
)
def test_restore_calls_only_damage_damage(tmp_path, monkeypatch, error, raised, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(distributed, "is_peer_failure", lambda error: "UNAVAILABLE" in str(error))
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", fail)
        with pytest.raises(raised, match=message):
            checkpoints.restore(4, _state(0))


def test_reserved_space_of_a_killed_process_is_released(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".reserve.123").write_bytes(bytes(9))
    with Checkpoints(tmp_path):
        assert list((tmp_path / "checkpoints").iterdir()) == []


def test_save_into_a_removed_folder_is_one_line(tmp_path):
    with Checkpoints(tmp_path, DESCRIPTION) as checkpoints:
        checkpoints.save(4, _state(4))
        shutil.rmtree(tmp_path / "checkpoints")
        with pytest.raises(UserError, match="checkpoints was removed during the training"):
            checkpoints.save(8, _state(8))
