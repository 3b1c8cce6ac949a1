"""Checkpoints of a phase: the latest and the best, each whole or not there at all."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from amdjax import distributed
from amdjax.errors import UserError

FOLDER = "checkpoints"
_DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
)
_SELECT = "accuracy"  # the evaluation's value by which the best is chosen


class Checkpoints:
    """The checkpoints of one phase, kept by orbax: the newest and the most accurate.

    A step's checkpoint is written beside its final name and renamed when it is complete, so a
    killed run leaves the one before it. Saving waits for the disk: the next step may then reuse
    the state's memory, and a full disk is reported at once.
    """

    def __init__(self, phase_folder: Path):
        """Opens, or creates, `phase_folder/checkpoints`.

        Raises:
          UserError: if the first process's folder is not there for this one.
        """
        policies = checkpoint_managers
        self._folder = phase_folder / FOLDER
        self._manager = ocp.CheckpointManager(
            self._folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(1),
                        policies.BestN(
                            get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )
        wait_for_folder(self._folder)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def restore_latest(self, state: Any) -> Any:
        """Returns the newest checkpoint in the structure, shapes and shardings of `state`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        return self._manager.restore(self.latest_step(), args=ocp.args.StandardRestore(abstract))

    def save(self, step: int, state: Any, evaluation: dict[str, float] | None = None) -> None:
        """Writes a checkpoint, with the values of an evaluation where there was one.

        Raises:
          UserError: if the disk is full or may not be written.
        """
        try:
            if distributed.is_primary():
                _reserve(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
            self._manager.save(
                step, args=ocp.args.StandardSave(state), metrics=evaluation, force=True
            )
        except Exception as error:
            reason = disk_error(error)
            if reason is None:
                raise
            raise UserError(
                f"cannot write the checkpoint of step {step} to {self._folder}: {reason}; what was "
                "saved before is kept, and the same command goes on from it once there is room"
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


def best_step(evaluations: dict[int, dict[str, float]]) -> int:
    """Returns the step with the best evaluation, the later one of equals."""
    return max(evaluations, key=lambda step: (_accuracy(evaluations[step]), step))


def read_network(folder: Path) -> tuple[int, dict]:
    """Reads a network's variables from a checkpoint, whatever devices it was written on.

    Args:
      folder: a phase's folder, its `checkpoints` folder (the newest is taken), or one step in it.

    Returns:
      (step, {"params": ..., "batch_stats": ...} of NumPy arrays): what is evaluated, so the means
      over the steps where the checkpoint has them.

    Raises:
      UserError: if there is no checkpoint, or it is damaged.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    try:
        steps = [int(child.name) for child in folder.iterdir() if child.name.isdigit()]
        if steps:
            folder = folder / str(max(steps))
        state = (folder / "default" if (folder / "default").is_dir() else folder).absolute()
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(state).item_metadata
            if metadata is None:
                raise FileNotFoundError("what is in it cannot be read")
            saved = metadata.tree
            # Arrays of NumPy ask for no device: without them orbax wants those of the writer.
            wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
            tree = checkpointer.restore(state, wanted)
    except Exception as error:  # orbax has no common class for what may be wrong in a folder
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} holds no complete checkpoint: {reason}") from error
    result = tree.get("ema") or tree
    network = {key: result[key] for key in ("params", "batch_stats") if key in result}
    return int(tree.get("step", 0)), network


def wait_for_folder(folder: Path, seconds: float = 45) -> None:
    """Makes sure that this process sees a folder that the first process has made.

    Args:
      folder: that was made.
      seconds: to wait for it; NFS may take half a minute to see what another machine made.

    Raises:
      UserError: if it is not there; orbax would wait for it without end.
    """
    deadline = time.monotonic() + seconds
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise UserError(
                f"process {distributed.process_index()} does not see {folder}, which the first "
                "process has made: take a --workdir on a disk that all machines share"
            )
        time.sleep(0.5)


def _reserve(folder: Path, size: int) -> None:
    """Takes room on the disk and gives it back: orbax, left to find the disk full, is not brief."""
    probe = folder / f".room.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        probe.unlink(missing_ok=True)


def disk_error(error: BaseException) -> str | None:
    """Returns the system's words if an error says that the disk is full or not ours; else None."""
    while error is not None:
        for code in _DISK_ERRORS:
            words = os.strerror(code)
            if words in str(error) or (isinstance(error, OSError) and error.errno == code):
                return words
        error = error.__cause__ or error.__context__
    return None


def _accuracy(evaluation: dict[str, float]) -> float:
    return evaluation[_SELECT]
