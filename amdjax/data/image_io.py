"""Encoded bytes of an image file to pixels, and back."""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from amdjax.errors import UserError

# (width, height) of an image -> (left, top, right, bottom) of the part to be resized.
Box = Callable[[int, int], tuple[float, float, float, float]]


def decode_image(data: bytes, size: int, name: str, box: Box | None = None) -> np.ndarray:
    """Decodes an image file completely.

    Grey, palette and CMYK images become RGB, 16-bit grey keeps its upper byte, transparent
    pixels are laid on white, and the orientation that a camera noted is applied.

    Args:
      data: the file's bytes, in any format that Pillow reads.
      size: 0 keeps the image's own size; otherwise the shorter side is resized to it (bicubic,
        antialiased) and the centre square is cut out.
      name: what error messages call the image.
      box: chooses the part of the image that is resized to a square of `size`; None: the centre,
        as large as can be.

    Returns:
      uint8 [H,W,3].

    Raises:
      UserError: naming the image, if it is damaged or no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
        if box is not None:
            image = image.resize((size, size), Image.Resampling.BICUBIC, box(*image.size))
        elif size:
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} cannot be decoded as an image: it is empty or of no known format"
        ) from error
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise UserError(f"{name} cannot be decoded as an image: {one_line(error)}") from error
    return np.array(image)


def random_resized_box(rng: np.random.Generator) -> Box:
    """Returns a box of 8 to 100 % of the area and a ratio of 3/4 to 4/3, at a random place.

    The usual crop of ImageNet training (Szegedy et al., CVPR 2015): the area is uniform, the ratio
    log-uniform; after ten draws that do not fit, the centre with the nearest ratio is taken.
    """

    def box(width: int, height: int) -> tuple[float, float, float, float]:
        for _ in range(10):
            area = rng.uniform(0.08, 1.0) * width * height
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return left, top, left + w, top + h
        w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
        left, top = (width - w) / 2, (height - h) / 2
        return left, top, left + w, top + h

    return box


def center_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Returns the square of 224/256 of the shorter side in the middle: ImageNet's evaluation."""
    side = min(width, height) * 224 / 256
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def encode_png(image: np.ndarray) -> bytes:
    """Returns an image, uint8 [H,W,3] or grey [H,W], as a PNG file of three channels."""
    file = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(file, "PNG")
    return file.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert("RGB") would saturate everything above 255
        wide = np.clip(np.asarray(image), 0, 2**16 - 1)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def one_line(error: Exception) -> str:
    """Returns an exception's text, or else its type, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
