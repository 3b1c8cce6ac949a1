"""Checkpoints of a run: the last two and the best, each complete, unchanged or not used."""

import datetime
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from amdjax import __version__, distributed
from amdjax.checkpoint_files import (
    CHECKPOINTS_FOLDER,
    RUN_ITEM,
    RUN_ITEM_FILE,
    STATE_ITEM,
    ChecksummedPath,
    find_damage,
    newest_first,
    read_json,
)
from amdjax.errors import UserError, first_line, is_out_of_memory
from amdjax.files import DAMAGE_ERRORS, disk_error, remedy, set_aside
from amdjax.models.variables import check_variable_shapes

_SELECT = "accuracy"  # the evaluation's value by which the best is chosen
_RESERVE = ".reserve."


class Checkpoints:
    """The checkpoints of one run, kept by orbax: the last two and the most accurate.

    A step's checkpoint is written beside its final name and renamed when it is complete, so a
    killed run leaves the one before it. The checksums of its files are part of it: a checkpoint
    that was changed on the disk is removed, and the one before it is the newest. Saving waits for
    the disk: the next step may then reuse the state's memory, and a full disk is reported
    immediately.
    """

    def __init__(self, run_folder: Path, description: dict[str, Any] | None = None):
        """Opens, or creates, `run_folder/checkpoints`, and removes damaged checkpoints from it.

        One on a disk that fails is renamed to STEP.damaged.

        Args:
          run_folder: of the run.
          description: of the run in JSON values, saved with each checkpoint, see
            `read_description`; None: checkpoints are only read.

        Raises:
          UserError: if all checkpoints are damaged, or one cannot be read now, or this process
            does not see the folder that the first process created.
        """
        policies = checkpoint_managers
        self._folder = run_folder / CHECKPOINTS_FOLDER
        self._description = description
        if distributed.is_primary():  # the others wait for it in orbax's constructor
            _clean(self._folder)
        self._manager = ocp.CheckpointManager(
            self._folder.absolute(),
            item_names=(STATE_ITEM, RUN_ITEM),
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(2),
                        policies.BestN(
                            get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
                temporary_path_class=ChecksummedPath,
            ),
        )
        wait_for_folder(self._folder)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def wait_for(self, step: int, seconds: float = 45) -> None:
        """Waits until this process sees a checkpoint, which on a shared disk takes a moment.

        Raises:
          UserError: if it does not see it by then.
        """

        def is_seen() -> bool:
            if self.latest_step() != step:
                self._manager.reload()
            return self.latest_step() == step

        _wait_until(
            is_seen,
            seconds,
            f"process {distributed.process_index()} does not see the checkpoint of step {step} in "
            f"{self._folder}: all processes must share the disk of the workdir",
        )

    def restore_latest(self, state: Any) -> Any:
        """Returns the newest checkpoint in the form of a state, see `restore`.

        Raises:
          UserError: if the checkpoint does not fit, or has no checksums and is damaged.
        """
        return self.restore(max(self._manager.all_steps()), state)

    def restore(self, step: int, state: Any) -> Any:
        """Returns a checkpoint in the structure, shapes and shardings of a state.

        Args:
          step: of the checkpoint.
          state: a pytree of arrays or of `jax.ShapeDtypeStruct`.

        Raises:
          UserError: if the checkpoint is of other shapes, or has no checksums and is damaged, or
            cannot be read now.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        try:
            _check_parameters(self._folder / str(step), getattr(state, "params", None))
            restored = self._manager.restore(
                step, args=ocp.args.Composite(**{STATE_ITEM: ocp.args.StandardRestore(abstract)})
            )
        except UserError:
            raise
        except Exception as error:  # orbax has no common class for what may be wrong in a folder
            _raise_unless_damage(self._folder, error)
            raise UserError(
                f"the checkpoint {self._folder / str(step)} cannot be read: {first_line(error)}; "
                "remove that folder to continue from the one before it, if there is one"
            ) from error
        return restored[STATE_ITEM]

    def restore_partial_sums(self) -> dict[str, Any]:
        """Returns the `partial_sums` that were saved with the newest checkpoint; {} without any."""
        return read_json(self._folder / str(self.latest_step()), RUN_ITEM_FILE).get("log", {})

    def save(
        self,
        step: int,
        state: Any,
        evaluation: dict[str, float] | None = None,
        partial_sums: dict[str, Any] | None = None,
    ) -> None:
        """Writes a checkpoint.

        Args:
          step: of the state.
          state: a pytree of arrays.
          evaluation: the values of an evaluation of this step, where there was one.
          partial_sums: JSON values, of the log line that is not complete, see
            `RunLogger.partial_sums`.

        Raises:
          UserError: if the disk is full or may not be written, or the folder was removed.
        """
        run = {
            "description": self._description,
            "log": partial_sums or {},
            "origin": current_origin(),
        }
        items = {STATE_ITEM: ocp.args.StandardSave(state), RUN_ITEM: ocp.args.JsonSave(run)}
        try:
            if distributed.is_primary():
                _reserve(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=evaluation, force=True
            )
        except Exception as error:
            if not self._folder.is_dir():
                raise UserError(
                    f"cannot write the checkpoint of step {step}: {self._folder} was removed "
                    "during the training; repeat the command to train the run again"
                ) from error
            reason = disk_error(error)
            if reason is None:
                raise
            raise UserError(
                f"cannot write the checkpoint of step {step} to {self._folder}: {reason}; what was "
                f"saved before is kept; {remedy(reason)} and repeat the command to resume"
            ) from error

    def evaluations(self) -> dict[int, dict[str, float]]:
        """Returns the evaluations that came with the kept checkpoints, by step."""
        kept = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        return {step: values for step, values in kept.items() if values}

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases orbax's resources."""
        self._manager.close()


def best_step(evaluations: dict[int, dict[str, float]], key: str = _SELECT) -> int:
    """Returns the step with the largest value of a key, the later one of equals."""
    return max(evaluations, key=lambda step: (evaluations[step][key], step))


def read_network(folder: Path, losses: Collection[str] = ()) -> tuple[int, dict]:
    """Reads a network's variables from a checkpoint, whatever devices it was written on.

    Args:
      folder: as for `read_checkpoint`.
      losses: names of the losses whose variables are read, too.

    Returns:
      (step, {"params": ..., "batch_stats": ...} of NumPy arrays): the moving averages where the
      checkpoint has them, since these are evaluated. With `losses` there is a third entry,
      "losses", in the form of `Objective.predicting_variables`.

    Raises:
      UserError: if there is no checkpoint, or all of them are damaged, or one cannot be read now.
    """
    state = read_state(folder)
    return int(state.get("step", 0)), network_of(state, losses)


def network_of(state: dict[str, Any], losses: Collection[str] = ()) -> dict:
    """Returns the variables of the network in a state, as `read_network` does.

    Args:
      state: from `read_state`.
      losses: as for `read_network`.
    """
    result = state.get("ema") or state
    network = {key: result[key] for key in ("params", "batch_stats") if key in result}
    if losses:
        network["losses"] = {
            collection: {name: trees[name] for name in losses if name in trees}
            for collection, trees in state["loss_variables"].items()
        }
    return network


def read_state(folder: Path) -> dict[str, Any]:
    """Reads the state of a run from a checkpoint, see `read_checkpoint`."""
    return read_checkpoint(folder)[1]


def read_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Reads the state of a run from a checkpoint, whatever devices it was written on.

    Args:
      folder: a run's folder or its `checkpoints` folder, of which the newest checkpoint is read
        that is not damaged; or one checkpoint.

    Returns:
      (folder of the checkpoint that was read, the fields of `TrainState` as nested dictionaries of
      NumPy arrays).

    Raises:
      UserError: if there is no checkpoint, or all of them are damaged, or one cannot be read now,
        or JAX has no device.
    """
    distributed.check_devices()  # orbax's error would look like damage
    if (folder / CHECKPOINTS_FOLDER).is_dir():
        folder = folder / CHECKPOINTS_FOLDER
    damaged = []
    for checkpoint in newest_first(folder) or [folder]:
        try:
            if reason := find_damage(checkpoint):
                raise ValueError(reason)
            tree = _read_state(checkpoint)
        except Exception as error:  # orbax has no common class for what may be wrong in a folder
            _raise_unless_damage(folder, error)
            damaged.append(f"{checkpoint} is damaged ({first_line(error)})")
            continue
        for sentence in damaged:
            distributed.print_note(f"{sentence}; {checkpoint} is used instead")
        return checkpoint, tree
    raise UserError(f"{folder} holds no complete checkpoint: {damaged[0]}")


def current_origin() -> dict[str, Any]:
    """Returns what is recorded of the process that trains: version, devices and the date in UTC."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "version": __version__,
        "device": distributed.device_kind(),
        "devices": distributed.device_count(),
        "date": now.isoformat(timespec="seconds"),
    }


def wait_for_folder(folder: Path, seconds: float = 45) -> None:
    """Waits until this process sees a folder that the first process has created.

    Args:
      folder: that was created.
      seconds: to wait for it; NFS may take half a minute to show what another machine created.

    Raises:
      UserError: if it does not appear; orbax would wait for it forever.
    """
    _wait_until(
        folder.is_dir,
        seconds,
        f"process {distributed.process_index()} does not see {folder}, which the first process has "
        "made: choose a --workdir on a disk that all machines share",
    )


def _wait_until(condition: Callable[[], bool], seconds: float, message: str) -> None:
    """Waits until a condition holds.

    Args:
      condition: that is checked twice a second.
      seconds: to wait for it.
      message: of the error.

    Raises:
      UserError: if it does not hold by then.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UserError(message)
        time.sleep(0.5)


def _clean(folder: Path) -> None:
    """Removes the damaged checkpoints of a run, and what a killed process left there.

    Those on a disk that fails are renamed, since their files may still be rescued.

    Raises:
      UserError: if no checkpoint is left, or one cannot be read now.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder; remove it to train the run from its start")
    for file in folder.glob(f"{_RESERVE}*"):
        file.unlink()
    try:
        checkpoints = newest_first(folder)
        damaged = {path: reason for path in checkpoints if (reason := find_damage(path))}
    except OSError as error:
        raise _not_now(folder, error) from error
    if damaged and len(damaged) == len(checkpoints):
        path, reason = next(iter(damaged.items()))
        raise UserError(
            f"every checkpoint in {folder} is damaged ({path.name}: {reason}); remove that folder "
            "to train the run from its start"
        )
    newest = next((path for path in checkpoints if path not in damaged), None)
    for path, reason in damaged.items():
        if os.strerror(errno.EIO) in reason:
            set_aside(path)
            fate = "is not used"
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            fate = "is removed"
        distributed.print_note(
            f"{path} was damaged or incomplete ({reason}) and {fate}; the newest checkpoint is "
            f"that of step {newest.name}"
        )


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the state of a checkpoint as nested dictionaries of NumPy arrays."""
    state = checkpoint / STATE_ITEM
    state = (state if state.is_dir() else checkpoint).absolute()
    handler = ocp.StandardCheckpointHandler()
    with ocp.Checkpointer(handler) as checkpointer:
        # `checkpointer.metadata` warns that a file is missing, which only the folder above has.
        metadata = handler.metadata(state)
        # NumPy arrays name no device: without them orbax wants those of the writer.
        wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata.tree)
        return checkpointer.restore(state, args=ocp.args.StandardRestore(wanted))


def _check_parameters(checkpoint: Path, expected: dict[str, Any] | None) -> None:
    """Makes sure that the parameters of a checkpoint are those of a network.

    Args:
      checkpoint: its folder.
      expected: the network's; None: no network is known.

    Raises:
      UserError: if they are not, since the network's code has changed.
    """
    if expected is None:
        return
    stored = ocp.StandardCheckpointHandler().metadata((checkpoint / STATE_ITEM).absolute()).tree
    check_variable_shapes(
        flax.traverse_util.flatten_dict(stored["params"], sep="/"),
        flax.traverse_util.flatten_dict(expected, sep="/"),
        f"the network's code has changed since {checkpoint} was written; restore the code, or "
        "choose another --workdir",
    )


def _raise_unless_damage(folder: Path, error: Exception) -> None:
    """Raises an error of reading a checkpoint again, if it says nothing about the files.

    Raises:
      UserError: if the system cannot read the files now.
      Exception: `error`, if the memory is full or another process has ended.
    """
    code = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore's
        code = int(found[1])
    if disk_error(error) or code not in (None, *DAMAGE_ERRORS):
        raise _not_now(folder, error) from error
    if is_out_of_memory(error) or distributed.is_peer_failure(error):
        raise error


def _not_now(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"the checkpoints in {folder} cannot be read now: {first_line(error)}; nothing was "
        "removed: repeat the command when they can be read"
    )


def _reserve(folder: Path, size: int) -> None:
    """Reserves space on the disk and releases it: orbax reports a full disk with pages of text."""
    probe = folder / f"{_RESERVE}{os.getpid()}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        probe.unlink(missing_ok=True)


def _accuracy(evaluation: dict[str, float]) -> float:
    return evaluation[_SELECT]
