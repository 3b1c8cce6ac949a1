"""Anybody's image files: found, read as the networks take them, and painted over."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from amdjax.analysis.gradcam import overlay, to_unit, upsample
from amdjax.data.datasets.folder import SUFFIXES
from amdjax.data.image_io import center_box, decode_image
from amdjax.errors import UserError

CAM_MARK = ".cam-"  # in the name of an overlay
_SHORT_SIDE, _LONG_SIDE = 384, 4096  # of an overlay, in pixels, at most
_SQUARES = 3  # pixels that are enlarged so many times stay squares


def find_images(words: Sequence[str]) -> list[Path]:
    """Returns the files that are meant by paths, folders and globs, in their order.

    Of a folder all files with an image's extension count, at any depth, but for hidden ones and
    overlays.

    Args:
      words: what the user wrote. Where it stands for no file it is returned itself, to be named
        when it cannot be read.

    Raises:
      UserError: if nothing was written.
    """
    if not words or not all(words):
        raise UserError("no image is given: name files, folders or globs behind the flags")
    return [file for word in words for file in _meant_by(word)]


def _meant_by(word: str) -> list[Path]:
    found: list[Path] = []
    try:
        path = Path(word).expanduser()
        if path.is_dir():
            found = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in SUFFIXES
                and not file.name.startswith(".")
                and CAM_MARK not in file.name
            ]
        elif not path.exists():
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        return found or [path]
    except (OSError, RuntimeError, ValueError):  # too long, of a user who is not there, no pattern
        return [Path(word)]


def read_images(
    files: Sequence[Path], side: int, tight_crop: bool
) -> tuple[list[Path], np.ndarray]:
    """Decodes images as for the evaluation, and names those that cannot be on stderr.

    Args:
      files: any number.
      side: to which the centre square of each is resized, in pixels.
      tight_crop: whether 224/256 of that square is taken, as in ImageNet's evaluation.

    Returns:
      (the R files that could be read, uint8 [R,side,side,3]).
    """
    box = center_box if tight_crop else None
    images = np.empty((len(files), side, side, 3), np.uint8)
    read: list[Path] = []
    for file in files:
        try:
            images[len(read)] = decode_image(_bytes(file), side, str(file), box)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
        else:
            read.append(file)
    return read, images[: len(read)]


def overlay_cam(file: Path, cam: np.ndarray, tight_crop: bool) -> Image.Image:
    """Paints Grad-CAM over an image at its own proportions, where the network saw it.

    Args:
      file: the image.
      cam: float [h,w], not negative.
      tight_crop: see `read_images`.

    Raises:
      UserError: if the image cannot be read.
    """
    image = Image.fromarray(decode_image(_bytes(file), 0, str(file)))
    scale = min(_SHORT_SIDE / min(image.size), _LONG_SIDE / max(image.size))
    width, height = (max(1, round(scale * length)) for length in image.size)
    kind = Image.Resampling.NEAREST if scale >= _SQUARES else Image.Resampling.BICUBIC
    pixels = np.asarray(image.resize((width, height), kind), np.float32) / 255.0
    left, top, right, bottom = map(round, _seen(width, height, tight_crop))
    heat = np.zeros((height, width), np.float32)
    heat[top:bottom, left:right] = to_unit(upsample(cam[None], (bottom - top, right - left)))[0]
    return Image.fromarray(np.round(255 * overlay(pixels, heat)).astype(np.uint8))


def _seen(width: int, height: int, tight_crop: bool) -> tuple[float, float, float, float]:
    """Returns the (left, top, right, bottom) of what a network sees of an image."""
    if tight_crop:
        return center_box(width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _bytes(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise UserError(f"{file} holds no image ({', '.join(SUFFIXES)})")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
