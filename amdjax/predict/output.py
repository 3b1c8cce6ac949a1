"""Predictions as a table on the screen, and as JSON and CSV with `--out`."""

import csv
import io
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from amdjax.errors import UserError
from amdjax.files import local_path, write_atomically
from amdjax.predict.loaded_models import LoadedModels

_TOP = 5  # classes of a table


class Predictions:
    """The probabilities of images, from one or several networks.

    Attributes:
      loaded: the networks and their classes.
      rows: for each image (name of the file, network -> float [C]).
    """

    def __init__(self, loaded: LoadedModels):
        """Starts without images."""
        self.loaded = loaded
        self.rows: list[tuple[str, dict[str, np.ndarray]]] = []

    def add(self, file: Path, probabilities: dict[str, np.ndarray]) -> None:
        """Adds an image.

        Args:
          file: its name, of which bytes that are not UTF-8 are written as "\\xff".
          probabilities: network -> float [C].
        """
        name = os.fsencode(file).decode(errors="backslashreplace")
        self.rows.append((name, probabilities))


def write_json(predictions: Predictions, to: Path) -> None:
    """Writes an object with "class_names", "temperatures" and "images".

    An image has "file" and "networks": for each its "class", the most probable one, and its
    "probabilities", one for each class. The temperature is null where a network is not calibrated.
    """
    loaded = predictions.loaded
    content = {
        "class_names": loaded.class_names,
        "temperatures": {model.name: model.temperature for model in loaded.models},
        "images": [
            {
                "file": file,
                "networks": {
                    name: {
                        "class": loaded.class_names[values.argmax()],
                        "probabilities": values.tolist(),
                    }
                    for name, values in probabilities.items()
                },
            }
            for file, probabilities in predictions.rows
        ],
    }
    write_atomically(to, json.dumps(content, indent=2) + "\n")


def write_csv(predictions: Predictions, to: Path) -> None:
    """Writes a row for each image and network: file, network, class, and each probability."""
    names = predictions.loaded.class_names
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "network", "class", *names])
    for file, probabilities in predictions.rows:
        for network, values in probabilities.items():
            writer.writerow([file, network, names[values.argmax()], *values.tolist()])
    write_atomically(to, text.getvalue())


WRITERS: dict[str, Callable[[Predictions, Path], None]] = {".json": write_json, ".csv": write_csv}


def output_file(text: str) -> Path:
    """Returns the path of `--out`.

    Raises:
      UserError: if its suffix is not in `WRITERS`.
    """
    out = local_path(text, "--out")
    if out.suffix not in WRITERS:
        raise UserError(f"--out={text}: the file must end in {' or '.join(WRITERS)}")
    return out


def format_table(probabilities: dict[str, np.ndarray], class_names: Sequence[str]) -> str:
    """Returns a table of the five most probable classes of an image, for each network.

    Args:
      probabilities: name of the network -> float [C].
      class_names: in the order of the labels.
    """
    rows = [[str(rank)] for rank in range(1, min(_TOP, len(class_names)) + 1)]
    for values in probabilities.values():
        best = np.argsort(-values, kind="stable")[:_TOP]
        for row, label in zip(rows, best, strict=True):
            row += [class_names[label], f"{100 * values[label]:.2f} %"]
    headers = ["", *(cell for name in probabilities for cell in (name, ""))]
    align = ["left", *["left", "right"] * len(probabilities)]
    table = tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True)
    return textwrap.indent("\n".join(line.rstrip() for line in table.splitlines()), "  ")
