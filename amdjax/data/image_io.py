"""Decoding of image files to RGB pixels, and encoding to PNG."""

import contextlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from amdjax.errors import UserError, one_line

# (width, height) of an image -> (left, top, right, bottom) of the part that is resized.
ChooseBox = Callable[[int, int], tuple[float, float, float, float]]

# Pillow registers these formats, but can only identify or only write them.
_NOT_DECODABLE = ("BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")

# EXIF orientation -> what makes the image upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow tries its formats in the order in which they are loaded: the common ones first, or decoding
# takes a third longer. The others are loaded so that their suffixes are registered.
Image.preinit()
Image.init()
# Suffixes, in lower case and with the dot, of all formats that Pillow decodes.
IMAGE_SUFFIXES = tuple(
    sorted(
        suffix
        for suffix, file_format in Image.registered_extensions().items()
        if file_format not in _NOT_DECODABLE
    )
)


def decode_image(data: bytes, size: int, name: str, box: ChooseBox | None = None) -> np.ndarray:
    """Decodes an image file to RGB.

    Grey, palette and CMYK images are converted to RGB, transparent pixels are composited on white,
    and the EXIF orientation is applied. Grey values of more than 8 bits become 8 bits as follows:

    * 16-bit integers keep their upper byte.
    * Signed and 32-bit integers do not define which value is white. Values within 0..255 are kept,
      and otherwise values within 0..65535 are treated as 16-bit.
    * Floats within 0..1 are multiplied by 255, and otherwise floats within 0..255 are kept; both
      are rounded.

    Wider ranges and negative values are refused, as any scale would be a guess.

    Args:
      data: content of the file, in any format that Pillow decodes.
      size: 0 keeps the size of the image; otherwise the shorter side is resized to it (bicubic,
        antialiased) and the centre square is cropped.
      name: name of the image in error messages.
      box: chooses the part of the image that is resized to a square of `size`, which must then be
        above 0; None: the largest centre square.

    Returns:
      uint8 [H,W,3].

    Raises:
      UserError: naming the image, if it is damaged, is not an image, has a refused range, or has
        more pixels than Pillow decodes.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = _to_rgb(_upright(file), file.format)
        if box is not None:
            image = image.resize((size, size), Image.Resampling.BICUBIC, box(*image.size))
        elif size:
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} cannot be decoded as an image: it is empty or of an unknown format"
        ) from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(f"{name} has more than {limit:,} pixels; make it smaller") from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise UserError(f"{name} cannot be decoded as an image: {one_line(error)}") from error
    return np.array(image)


def random_resized_box(rng: np.random.Generator) -> ChooseBox:
    """Returns a function that draws a box with 8 to 100 % of the area and a ratio of 3/4 to 4/3.

    The usual crop of ImageNet training (Szegedy et al., CVPR 2015): the area is uniform, the aspect
    ratio log-uniform and the position uniform. If ten draws do not fit into the image, the largest
    centre box with the nearest allowed ratio is taken.
    """

    def box(width: int, height: int) -> tuple[float, float, float, float]:
        for _ in range(10):
            area = rng.uniform(0.08, 1.0) * width * height
            ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return left, top, left + w, top + h
        w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
        left, top = (width - w) / 2, (height - h) / 2
        return left, top, left + w, top + h

    return box


def imagenet_crop_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Returns the centre square of 224/256 of the shorter side: ImageNet's evaluation crop."""
    side = min(width, height) * 224 / 256
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image, uint8 [H,W,3] or grey [H,W], as a PNG file with three channels."""
    file = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(file, "PNG")
    return file.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """Returns an image with its EXIF orientation applied; as it is, if that cannot be read.

    `ImageOps.exif_transpose` also writes all EXIF tags again, which fails on some intact photos.
    """
    image.load()
    orientation = 1
    with contextlib.suppress(Exception):  # Pillow raises many types on damaged tags
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    # convert("RGB") would clip the modes I (integers) and F (floats) at 255.
    if image.mode.startswith("I"):
        # Pillow reads 16-bit PGM in the 32-bit mode I, scaled to 0..65535.
        is_16_bit = image.mode != "I" or file_format == "PPM"
        values = np.asarray(image)
        grey = _integers_to_uint8(values, is_16_bit)
        grey[values == image.info.get("transparency", -1)] = 255  # of a PNG, one of the values
        image = Image.fromarray(grey)
    elif image.mode == "F":
        image = Image.fromarray(_floats_to_uint8(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _integers_to_uint8(values: np.ndarray, is_16_bit: bool) -> np.ndarray:
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise ValueError(
            f"its integers range from {low} to {high}; rescale them to 0..255 or 0..65535"
        )
    return (values >> 8 if is_16_bit or high > 255 else values).astype(np.uint8)


def _floats_to_uint8(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise ValueError(f"its floats range from {low:g} to {high:g}; rescale them to 0..1")
    return np.round(values * 255 if high <= 1 else values).astype(np.uint8)
