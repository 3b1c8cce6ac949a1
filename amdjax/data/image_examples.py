"""Labelled image files as tfds examples, each of which is decoded once to check it."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from amdjax.data.archives import DOWNLOAD_AGAIN
from amdjax.data.image_io import decode_image
from amdjax.data.sources import CHUNK
from amdjax.errors import UserError

_MAX_NAMES = 20  # of damaged images, in one message


class ImageFile(NamedTuple):
    """A labelled image file.

    Attributes:
      name: the id of the example.
      label: index of the class.
      read: returns the content of the file; may be called from another thread.
    """

    name: str
    label: int
    read: Callable[[], bytes]


def checked_examples(
    files: Iterable[ImageFile],
    prefix: str,
    advice: str = DOWNLOAD_AGAIN,
    later: Iterable[ImageFile] = (),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields image files as tfds examples, after decoding each once to check that it is intact.

    After a damaged file nothing more is yielded, but the rest is checked, so that one message names
    every damaged file.

    Args:
      files: the files, in the order of the examples.
      prefix: precedes the name of a file in error messages.
      advice: what to do about damaged files.
      later: files of the splits that are prepared after this one, for that message.

    Raises:
      UserError: naming the damaged files, the first twenty of them.
    """

    def check(file: ImageFile) -> bytes | UserError:
        try:
            data = file.read()
            decode_image(data, 0, f"{prefix}{file.name}")
        except UserError as error:
            return error
        return data

    def checked(files: Iterable[ImageFile]) -> Iterator[tuple[ImageFile, bytes | UserError]]:
        tasks = ((file, pool.submit(check, file)) for file in files)
        ahead = collections.deque(itertools.islice(tasks, CHUNK))
        while ahead:
            file, result = ahead.popleft()
            yield file, result.result()
            ahead.extend(itertools.islice(tasks, 1))

    damages: list[UserError] = []
    with ThreadPoolExecutor() as pool:
        for index, (file, data) in enumerate(checked(files)):
            if isinstance(data, UserError):
                damages.append(data)
            elif not damages:
                name = file.name.encode(errors="surrogateescape")
                yield index, {"id": name, "image": data, "label": file.label}
        if damages:
            damages += (data for _, data in checked(later) if isinstance(data, UserError))
    if len(damages) == 1:
        raise UserError(f"{damages[0]}; {advice}")
    if damages:
        lines = [f"  {error}" for error in damages[:_MAX_NAMES]]
        if len(damages) > _MAX_NAMES:
            lines.append(f"  and {len(damages) - _MAX_NAMES} more")
        raise UserError("\n".join([f"{len(damages)} images cannot be used; {advice}:", *lines]))
