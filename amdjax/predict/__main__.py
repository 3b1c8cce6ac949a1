"""Asks a trained student and its teacher: `python -m amdjax.predict --workdir=DIR IMAGE...`."""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from amdjax.cli import run_command
from amdjax.errors import UserError
from amdjax.predict.classifier import BATCH_SIZE, load_models
from amdjax.predict.images import CAM_MARK, find_images, overlay_cam, read_images

_TOP = 5

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of amdjax.main.")
_METHOD = flags.DEFINE_string(
    "method", None, "Student to ask, or its folder in the workdir; default: the last one trained."
)
_CAM = flags.DEFINE_bool("cam", False, "Write Grad-CAM over each image to ./NAME.cam-METHOD.png.")
_LAYER = flags.DEFINE_string(
    "layer", None, "Feature map of --cam: stem, stage1, ...; default: the last stage."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Prepared data, if not where the run had them.")


def main(arguments: list[str]) -> None:
    """Prints the most probable classes of each image, and draws what speaks for the first."""
    if _WORKDIR.value is None:
        raise UserError("--workdir=DIR is missing, the folder of a run of amdjax.main")
    files = find_images(arguments[1:])
    classifiers = load_models(Path(_WORKDIR.value), _METHOD.value, _DATA_DIR.value)
    stems: set[str] = set()
    for first in range(0, len(files), BATCH_SIZE):
        read, images = read_images(
            files[first : first + BATCH_SIZE], classifiers.side, classifiers.tight_crop
        )
        if not read:
            continue
        # One program does for any number of images.
        images = np.pad(images, [(0, BATCH_SIZE - len(read)), (0, 0), (0, 0), (0, 0)])
        answers = {one.name: one.probabilities(images) for one in classifiers.networks}
        cams = {}
        if _CAM.value:
            cams = {one.name: one.grad_cam(images, _LAYER.value) for one in classifiers.networks}
        for i, file in enumerate(read):
            probabilities = {name: answer[i] for name, answer in answers.items()}
            print(f"{file}\n{table(probabilities, classifiers.class_names)}", flush=True)
            stem = _unused(file.stem, stems)
            for name, cam in cams.items():
                path = Path(f"{stem}{CAM_MARK}{name}.png")
                try:
                    overlay_cam(file, cam[i], classifiers.tight_crop).save(path)
                except (OSError, UserError) as error:  # a name too long, or the file gone by now
                    print(f"no Grad-CAM of {file}: {error}", file=sys.stderr)
                else:
                    print(f"  {path}", flush=True)
            stems.add(stem)
    if not stems:
        raise UserError(f"none of the {len(files)} image(s) could be read")


def table(probabilities: dict[str, np.ndarray], class_names: Sequence[str]) -> str:
    """Returns the five most probable classes of an image, a column for each network.

    Args:
      probabilities: name of the network -> float [C].
      class_names: in the order of the labels.
    """
    columns = []
    for name, values in probabilities.items():
        best = np.argsort(-values, kind="stable")[:_TOP]
        width = max(len(class_names[label]) for label in best)
        cells = [f"{class_names[label]:<{width}}  {100 * values[label]:6.2f} %" for label in best]
        width = max(len(name), len(cells[0]))
        columns.append([text.ljust(width) for text in (name, *cells)])
    numbers = ["", *map(str, range(1, len(columns[0])))]
    return "\n".join(
        f"  {number:1}  {'    '.join(cells)}".rstrip()
        for number, *cells in zip(numbers, *columns, strict=True)
    )


def _unused(stem: str, used: set[str]) -> str:
    """Returns a name that is not used yet: files of different folders may share theirs."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in used)


if __name__ == "__main__":
    run_command(main)
