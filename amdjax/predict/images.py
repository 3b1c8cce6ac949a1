"""The user's images: finding and reading files, and drawing Grad-CAM over them."""

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from amdjax.analysis.gradcam import overlay, to_unit, upsample
from amdjax.data.image_files import report_left_out, walk_images
from amdjax.data.image_io import decode_image, imagenet_crop_box
from amdjax.errors import UserError, warn

CAM_MARK = ".cam-"  # in the file name of an overlay
_SHORT_SIDE, _LONG_SIDE = 384, 4096  # largest sides of an overlay, in pixels
_NEAREST = 3  # images that are enlarged at least as many times are not interpolated


def find_images(words: Sequence[str]) -> list[Path]:
    """Returns the files of paths, folders and glob patterns, in their order.

    A folder, also one that a pattern matches, stands for all its image files at any depth, see
    `walk_images`, except overlays. What is left out is reported on stderr.

    Args:
      words: paths, folders and patterns. One that matches no file is returned as a path, so that
        `read_images` reports it, and so is a folder without images.

    Raises:
      UserError: if there are no words, or an empty one, or a folder cannot be read.
    """
    if not words or not all(words):
        raise UserError("no images given: list files, folders or glob patterns after the flags")
    return [file for word in words for file in _expand(word)]


def check_any_exists(files: Sequence[Path]) -> None:
    """Makes sure that there is an image to classify, before a network is loaded and calibrated.

    Args:
      files: from `find_images`.

    Raises:
      UserError: if no file exists.
    """
    if not any(map(_exists, files)):
        read_images(files, 1, False)  # reports each
        raise UserError("no image could be read")


def _exists(file: Path) -> bool:
    try:
        return file.exists() and not file.is_dir()
    except OSError:  # the name is too long
        return False


def _expand(word: str) -> list[Path]:
    try:
        path = Path(word).expanduser()
        matches = [path] if path.exists() else _glob(path)
    except (OSError, RuntimeError, ValueError):  # too long, unknown user, a null character, "a**b"
        return [Path(word)]
    files = dict.fromkeys(file for match in matches for file in _images_of(match))
    return list(files) or [path]


def _glob(pattern: Path) -> list[Path]:
    """Returns the sorted matches of a pattern that are not in another match.

    Overlays are not among them, nor is what is hidden where the pattern does not name it. As in a
    shell, "**" does not follow links, which could lead upwards; `walk_images` does, below a match.
    """
    hidden = _count_hidden(pattern)
    found = {
        path
        for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))
        if _count_hidden(path) <= hidden and not _is_overlay(path)
    }
    return sorted(path for path in found if found.isdisjoint(path.parents))


def _count_hidden(path: Path) -> int:
    return sum(part.startswith(".") and part != ".." for part in path.parts)


def _images_of(path: Path) -> list[Path]:
    """Returns the sorted images of a folder; the path itself if there are none, or it is a file."""
    if not path.is_dir():
        return [path]
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    try:
        files = [Path(file.path) for file in walk_images(str(path), (), left_out)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
    images = [file for file in files if not _is_overlay(file)]
    left_out["that --cam has written"] = [str(file) for file in files if _is_overlay(file)]
    report_left_out(str(path), left_out)
    return sorted(images) or [path]


def _is_overlay(path: Path) -> bool:
    return CAM_MARK in path.stem and path.suffix == ".png"


def read_images(
    files: Sequence[Path], image_size: int, imagenet_crop: bool
) -> tuple[list[Path], np.ndarray]:
    """Decodes images as for the evaluation, and reports unreadable files on stderr.

    Args:
      files: any number.
      image_size: side in pixels to which the centre square of each image is resized.
      imagenet_crop: whether to take 224/256 of that square, as in ImageNet's evaluation.

    Returns:
      (the R readable files, uint8 [R,image_size,image_size,3]).
    """
    box = imagenet_crop_box if imagenet_crop else None
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)
    read: list[Path] = []
    for file in files:
        try:
            images[len(read)] = decode_image(_read_bytes(file), image_size, str(file), box)
        except UserError as error:
            warn(f"skipped: {error}")
        else:
            read.append(file)
    return read, images[: len(read)]


def overlay_cam(file: Path, cam: np.ndarray, imagenet_crop: bool) -> Image.Image:
    """Draws Grad-CAM over the part of an image that the network sees.

    Args:
      file: the image, whose aspect ratio is kept.
      cam: float [h,w], not negative.
      imagenet_crop: see `read_images`.

    Raises:
      UserError: if the image cannot be read.
    """
    image = Image.fromarray(decode_image(_read_bytes(file), 0, str(file)))
    scale = min(_SHORT_SIDE / min(image.size), _LONG_SIDE / max(image.size))
    width, height = (max(1, round(scale * length)) for length in image.size)
    resample = Image.Resampling.NEAREST if scale >= _NEAREST else Image.Resampling.BICUBIC
    pixels = np.asarray(image.resize((width, height), resample), np.float32) / 255.0
    left, top, right, bottom = map(round, _crop_box(width, height, imagenet_crop))
    heat = np.zeros((height, width), np.float32)
    heat[top:bottom, left:right] = to_unit(upsample(cam[None], (bottom - top, right - left)))[0]
    return Image.fromarray(np.round(255 * overlay(pixels, heat)).astype(np.uint8))


def _crop_box(width: int, height: int, imagenet_crop: bool) -> tuple[float, float, float, float]:
    """Returns (left, top, right, bottom) of the part of an image that the network sees."""
    if imagenet_crop:
        return imagenet_crop_box(width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _read_bytes(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise UserError(f"{file} is a folder without images")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
