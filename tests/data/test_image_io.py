import io

import numpy as np
import pytest
from PIL import Image

from amdjax.data.image_io import decode_image
from amdjax.errors import UserError
from tests.make_data import encode

RGB = np.random.default_rng(0).integers(0, 256, [6, 10, 3], np.uint8)


def save(image: Image.Image, file_format: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **settings)
    return file.getvalue()


def test_png_pixels_survive_and_can_be_written_to():
    image = decode_image(encode(RGB), 0, "x")
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8
    image[0] = 0


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP"])
def test_grey_becomes_three_equal_channels(file_format):
    image = decode_image(encode(np.full([6, 10], 77, np.uint8), file_format), 0, "x")
    assert image.shape == (6, 10, 3)
    np.testing.assert_allclose(image, 77, atol=1)


def test_sixteen_bit_grey_keeps_its_upper_byte():
    wide = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    image = decode_image(encode(wide), 0, "x")
    assert image[0, :, 0].tolist() == [0, 0, 1, 0x12, 255]


def test_transparent_pixels_lie_on_white():
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    assert decode_image(save(rgba, "PNG"), 0, "x")[0].tolist() == [[10, 20, 30], [255] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    data = save(palette, "PNG", transparency=b"\xff\x00")
    assert decode_image(data, 0, "x")[0].tolist() == [[10, 20, 30], [255] * 3]


def test_cmyk_becomes_rgb():
    image = decode_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 0, "x")
    np.testing.assert_allclose(image[0, 0], [255, 0, 0], atol=4)


def test_camera_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise to see
    data = save(Image.fromarray(RGB), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(data, 0, "x"), np.rot90(RGB, -1))


def test_resizes_shorter_side_and_cuts_the_centre():
    wide = np.zeros([20, 60, 3], np.uint8)
    wide[:, 20:40] = 200
    image = decode_image(encode(wide), 10, "x")
    assert image.shape == (10, 10, 3)
    assert (image[:, 2:8] == 200).all()
    checks = (np.indices([64, 64]).sum(0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(decode_image(encode(checks), 16, "x"), 127.5, atol=8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        encode(np.repeat(RGB, 20, 0), "JPEG")[:-60],
        encode(RGB)[:-40],
        encode(RGB)[:60] + b"damage" + encode(RGB)[66:],
    ],
)
def test_damaged_file_is_named(data):
    with pytest.raises(UserError, match=r"^some/file\.png cannot be decoded as an image: .+$"):
        decode_image(data, 0, "some/file.png")
