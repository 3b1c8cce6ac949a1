"""Trained weights that a setting names: where they are, and whether they belong to a network."""

from pathlib import Path

import flax.traverse_util

from amdjax.checkpoint_files import (
    CHECKPOINTS_FOLDER,
    has_checkpoint,
    is_checkpoint,
    newest_checkpoint,
)
from amdjax.errors import UserError, first_names
from amdjax.files import local_path
from amdjax.models import check_variable_shapes, create_model, variable_shapes
from amdjax.run_description import RunDescription, read_saved_run
from amdjax.weight_files import is_weight_file


def find_source(text: str, setting: str) -> Path:
    """Returns the path of trained weights.

    Args:
      text: value of the setting.
      setting: that names the path, for messages.

    Raises:
      UserError: if nothing is there, or it is a workdir and not one of its runs.
    """
    path = local_path(text, setting)
    if not path.exists():
        raise UserError(f"{setting}: {text} does not exist")
    runs = sorted(filter(has_checkpoint, path.iterdir())) if path.is_dir() else []
    if runs and find_run(path) is None and find_weights(path) is None:
        names = ", ".join(map(str, runs))
        raise UserError(f"{setting}: {text} is a workdir; name one of its runs: {names}")
    return path


def describe_source(path: Path) -> RunDescription | None:
    """Returns the description of the run that a path belongs to, see `find_run`.

    None: it belongs to none, or to one whose checkpoints hold no complete description.
    """
    folder = find_run(path)
    try:
        return None if folder is None else read_saved_run(folder)
    except UserError:
        return None  # nothing is known of it, as of weights that are not of a run


def find_run(path: Path) -> Path | None:
    """Returns the folder of a run, of which a path is the folder, its `checkpoints` or one of them.

    The path may be relative, or a link to one of these. None: it is not of a run with a checkpoint.
    """
    if not path.is_dir():
        return None
    places = (path.absolute(), path.resolve())  # both: `checkpoints` may itself be a link
    candidates = (
        folder for place in places for folder in (place / CHECKPOINTS_FOLDER, place, place.parent)
    )
    runs = (folder.parent for folder in candidates if folder.name == CHECKPOINTS_FOLDER)
    return next((run for run in runs if has_checkpoint(run)), None)


def find_weights(path: Path) -> Path | None:
    """Returns the file of PyTorch weights in a folder, or the path itself if it is a file.

    Safetensors are preferred, then `.bin`, the formats of the Hugging Face Hub. None: the folder
    has no such file, or is that of a run: weights exported into it do not replace its checkpoint.

    Raises:
      UserError: if there are several files to choose from.
    """
    if not path.is_dir():
        return path
    # Others, too, name a folder of weights after a step.
    if find_run(path) is not None and is_checkpoint(newest_checkpoint(path)):
        return None
    patterns = ("model.safetensors", "*.safetensors", "pytorch_model.bin", "*.bin")
    others = [file for file in path.iterdir() if is_weight_file(file)]
    for files in (*map(sorted, map(path.glob, patterns)), sorted(others)):
        if len(files) > 1:
            names = first_names([file.name for file in files])
            raise UserError(f"{path} has several files of weights ({names}); name one of them")
        if files:
            return files[0]
    return None


def check_variables(
    variables: dict,
    name: str,
    num_classes: int,
    source: Path,
    image_shape: tuple[int, ...],
) -> None:
    """Makes sure that variables belong to a model.

    Args:
      variables: {"params": ..., "batch_stats": ...}.
      name: of the model.
      num_classes: that it must have.
      source: where they were read, for the message.
      image_shape: (H, W, 3), on which the shapes of a network may depend.

    Raises:
      UserError: naming the first variable that does not fit, or the number of classes.
    """
    classes = count_classes(variables)
    if classes not in (None, num_classes):
        raise UserError(
            f"{source} has {classes} classes, the data set {num_classes}: choose a network that "
            "was trained on these classes"
        )
    check_variable_shapes(
        flax.traverse_util.flatten_dict(variables, sep="/"),
        variable_shapes(create_model(name, num_classes), image_shape),
        f"{source} does not match {name}",
    )


def count_classes(variables: dict) -> int | None:
    """Returns the number of classes of a network; None if it has no classifier."""
    bias = variables.get("params", {}).get("fc", {}).get("bias")
    return None if bias is None else bias.shape[0]
