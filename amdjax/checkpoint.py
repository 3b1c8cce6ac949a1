"""Checkpoints of a run: the latest and the best, each complete or absent."""

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
from amdjax.files import disk_error

FOLDER = "checkpoints"
_SELECT = "accuracy"  # the evaluation's value by which the best is chosen


class Checkpoints:
    """The checkpoints of one run, kept by orbax: the newest and the most accurate.

    A step's checkpoint is written beside its final name and renamed when it is complete, so a
    killed run leaves the one before it. Saving waits for the disk: the next step may then reuse
    the state's memory, and a full disk is reported immediately.
    """

    def __init__(self, run_folder: Path):
        """Opens, or creates, `run_folder/checkpoints`.

        Raises:
          UserError: if this process does not see the folder that the first process created.
        """
        policies = checkpoint_managers
        self._folder = run_folder / FOLDER
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
                "saved before is kept; free some space and repeat the command to resume"
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
      folder: a run's folder, its `checkpoints` folder (the newest is taken), or one step in it.

    Returns:
      (step, {"params": ..., "batch_stats": ...} of NumPy arrays): the moving averages where the
      checkpoint has them, since these are evaluated.

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
                raise FileNotFoundError("its contents cannot be read")
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
    """Waits until this process sees a folder that the first process has created.

    Args:
      folder: that was created.
      seconds: to wait for it; NFS may take half a minute to show what another machine created.

    Raises:
      UserError: if it does not appear; orbax would wait for it forever.
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
    """Reserves space on the disk and releases it: orbax reports a full disk with pages of text."""
    probe = folder / f".reserve.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        probe.unlink(missing_ok=True)


def _accuracy(evaluation: dict[str, float]) -> float:
    return evaluation[_SELECT]
