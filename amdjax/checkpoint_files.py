"""Files of a checkpoint: where they are, their checksums, and what is damaged."""

import json
import zlib
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from amdjax.errors import first_line
from amdjax.files import DAMAGE_ERRORS

CHECKPOINTS_FOLDER = "checkpoints"
# The items of a checkpoint, as orbax calls them: the state, and the JSON that comes with it.
STATE_ITEM = "default"
RUN_ITEM = "run"
RUN_ITEM_FILE = f"{RUN_ITEM}/metadata"  # orbax's name
_CHECKSUMS = "checksums.json"
_ORBAX_METADATA = "_CHECKPOINT_METADATA"
_BLOCK = 1 << 20  # bytes


def read_evaluation(folder: Path) -> dict[str, float]:
    """Returns the evaluation that came with the newest checkpoint, else {}.

    Args:
      folder: as for `newest_checkpoint`.
    """
    # {} for a checkpoint that was saved between two evaluations.
    return read_json(newest_checkpoint(folder), "metrics/metrics")


def read_origin(folder: Path) -> dict[str, Any]:
    """Returns what the newest checkpoint says of the process that wrote it, else {}.

    Args:
      folder: as for `newest_checkpoint`.
    """
    return read_json(newest_checkpoint(folder), RUN_ITEM_FILE).get("origin", {})


def newest_checkpoint(folder: Path) -> Path:
    """Returns the newest checkpoint, damaged or not; the folder itself if it has none.

    Args:
      folder: a run's folder or its `checkpoints` folder; or one checkpoint.
    """
    if (folder / CHECKPOINTS_FOLDER).is_dir():
        folder = folder / CHECKPOINTS_FOLDER
    return next(iter(newest_first(folder)), folder)


def step_of(checkpoint: Path) -> int | None:
    """Returns the step of a checkpoint, also of a link to one; None if its name is not a number."""
    name = checkpoint.resolve().name
    return int(name) if name.isdecimal() else None


def is_checkpoint(folder: Path) -> bool:
    """Returns whether a folder has any file of a checkpoint, damaged or not."""
    return any((folder / name).exists() for name in (STATE_ITEM, _CHECKSUMS, _ORBAX_METADATA))


def checkpoint_digest(checkpoint: Path) -> str | None:
    """Returns a digest of a checkpoint's checksums; None if there are none to read."""
    try:
        return _checksum(checkpoint / _CHECKSUMS)
    except OSError:
        return None


def has_checkpoint(run_folder: Path) -> bool:
    """Returns whether a run's folder has a checkpoint, damaged or not."""
    return bool(newest_first(run_folder / CHECKPOINTS_FOLDER))


def read_description(run_folder: Path) -> dict[str, Any] | None:
    """Returns the description that was saved with a run's newest checkpoint.

    Damaged copies are skipped; all checkpoints of a run have the same. None if there is none.
    """
    for checkpoint in newest_first(run_folder / CHECKPOINTS_FOLDER):
        if description := read_json(checkpoint, RUN_ITEM_FILE).get("description"):
            return description
    return None


class ChecksummedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a checkpoint; checksums are added before it gets its final name."""

    async def finalize(self) -> None:
        """Writes the checksums and renames the folder; one process does it."""
        folder = Path(self.get())
        if self.get_final().name.isdecimal():  # else it is the folder of an item
            checksums = {
                str(file.relative_to(folder)): _checksum(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file() and file.name != _ORBAX_METADATA  # changed by the renaming
            }
            (folder / _CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n")
        await super().finalize()


def _checksum(file: Path) -> str:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def find_damage(checkpoint: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint; None if nothing is.

    Checkpoints of earlier versions have no checksums; orbax finds some of their damages.

    Raises:
      OSError: if the files cannot be read now, which says nothing about them.
    """
    try:
        # Not `Path.exists`: in newer versions of Python it is False after any error.
        names = {path.name for path in checkpoint.iterdir()}
        if _ORBAX_METADATA in names and not isinstance(
            json.loads((checkpoint / _ORBAX_METADATA).read_bytes()), dict
        ):
            return f"{_ORBAX_METADATA} is damaged"  # it is not among the checksums
        if checkpoint.name.isdecimal() and STATE_ITEM not in names:  # of a step, in every version
            return f"{STATE_ITEM} is missing"
        if _CHECKSUMS not in names:
            return f"{_CHECKSUMS} is missing" if RUN_ITEM in names else None
        checksums = json.loads((checkpoint / _CHECKSUMS).read_bytes())
        if not checksums:
            return f"{_CHECKSUMS} is empty"
        for name, checksum in checksums.items():
            if _checksum(checkpoint / name) != checksum:
                return f"{name} has changed"
    except OSError as error:
        if error.errno not in DAMAGE_ERRORS:
            raise
        # A file that was opened, but cannot be read, has no name in the error.
        file = Path(error.filename or checkpoint).relative_to(checkpoint)
        return f"{file}: {error.strerror}" if file.name else str(error.strerror)
    except (ValueError, TypeError, AttributeError) as error:
        return first_line(error)
    return None


def newest_first(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder of checkpoints, damaged or not, the newest first."""
    found = list(folder.iterdir()) if folder.is_dir() else []
    steps = [path for path in found if path.name.isdecimal()]
    return sorted(steps, key=lambda path: int(path.name), reverse=True)


def read_json(checkpoint: Path, name: str) -> dict[str, Any]:
    """Returns the values of a JSON file of a checkpoint; {} if there is none or it is damaged."""
    try:
        checksums = json.loads((checkpoint / _CHECKSUMS).read_bytes())
        if checksums[name] == _checksum(checkpoint / name):
            return json.loads((checkpoint / name).read_bytes())
    except (OSError, ValueError, TypeError, LookupError):
        pass
    return {}
