"""Ids and labels of prepared images in a file beside them: without it all images are read."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from amdjax.data.sources import ImageSource, read_entries
from amdjax.files import replacing


def prepared_entries(
    source: ImageSource, files: Iterable[os.PathLike[str]], cache: Path
) -> tuple[list[str], np.ndarray]:
    """Returns `read_entries` of a prepared split, after the first time from a file.

    The file is written again if names, sizes or times of the prepared files have changed, or if it
    is damaged. Where it cannot be written, the images are read each time.

    Args:
      source: the split.
      files: the prepared files of the split.
      cache: path of the file of ids and labels.

    Returns:
      ids, and labels, int32 [N].

    Raises:
      UserError: if the prepared files cannot be read.
    """
    stats = [(Path(file).name, Path(file).stat()) for file in files]
    stamp = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    with (
        contextlib.suppress(Exception),  # damaged files raise many types
        cache.open("rb") as file,
        np.load(file) as arrays,
    ):
        if str(arrays["stamp"]) == stamp:
            names, labels = arrays["names"].tolist(), arrays["labels"]
            return [name.decode(errors="surrogateescape") for name in names], labels
    names, labels = read_entries(source)
    encoded = [name.encode(errors="surrogateescape") for name in names]
    with contextlib.suppress(OSError), replacing(cache) as partial, partial.open("wb") as file:
        np.savez(file, stamp=stamp, labels=labels, names=encoded)
    return names, labels
