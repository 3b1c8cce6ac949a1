"""Encoded bytes of an image file to pixels."""

import io

import numpy as np
from PIL import Image, ImageOps

from amdjax.errors import UserError


def decode_image(data: bytes, size: int, name: str) -> np.ndarray:
    """Decodes an image file completely.

    Grey, palette and CMYK images become RGB, 16-bit grey keeps its upper byte, transparent
    pixels are laid on white, and the orientation that a camera noted is applied.

    Args:
      data: the file's bytes, in any format that Pillow reads.
      size: 0 keeps the image's own size; otherwise the shorter side is resized to it (bicubic,
        antialiased) and the centre square is cut out.
      name: what error messages call the image.

    Returns:
      uint8 [H,W,3].

    Raises:
      UserError: naming the image, if it is damaged or no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
        if size:
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise UserError(f"{name} cannot be decoded as an image: {one_line(error)}") from error
    return np.array(image)


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
