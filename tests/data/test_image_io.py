import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from amdjax.data.image_io import IMAGE_SUFFIXES, decode_image, imagenet_crop_box, random_resized_box
from amdjax.errors import UserError
from tests.make_data import encode, random_images

RGB = random_images(6, 10, 3)


def save(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decode_grey(data: bytes) -> list[int]:
    """Returns the grey values of the first row."""
    image = decode_image(data, 0, "x")
    assert image.dtype == np.uint8
    assert (image == image[..., :1]).all()
    return image[0, :, 0].tolist()


def test_decode_image_keeps_png_pixels_and_is_writable():
    image = decode_image(encode(RGB), 0, "x")
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8
    image[0] = 0


def test_decode_image_error_on_too_many_pixels_says_to_make_it_smaller(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(UserError, match=r"^x has more than 58 pixels; make it smaller$"):
        decode_image(encode(RGB), 0, "x")


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "TIFF", "JPEG", "WEBP"])
def test_decode_image_repeats_grey_in_three_channels(file_format):
    image = decode_image(encode(np.full([6, 10], 77, np.uint8), file_format), 0, "x")
    assert image.shape == (6, 10, 3)
    np.testing.assert_allclose(image, 77, atol=1)


@pytest.mark.parametrize(
    ("file_format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")]
)
def test_decode_image_keeps_the_upper_byte_of_16_bits(file_format, dtype):
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype)
    assert decode_grey(encode(values, file_format)) == [0, 0, 1, 0x12, 255]
    assert decode_grey(encode(values[:, :2], file_format)) == [0, 0]


def test_decode_image_keeps_the_upper_byte_of_16_bit_pgm():
    header = b"P5\n3 1\n65535\n"
    assert decode_grey(header + np.array([0, 255, 0x1234], ">u2").tobytes()) == [0, 0, 0x12]
    assert decode_grey(header + np.array([0, 200, 255], ">u2").tobytes()) == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["i2", "i4", "u4"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 7, 255], [0, 7, 255]),
        ([0, 255, 256, 0x7FFF], [0, 0, 1, 0x7F]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_decode_image_scales_other_integers_by_their_range(dtype, values, expected):
    assert decode_grey(encode(np.array([values], dtype), "TIFF")) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 1.4, 254.6], [0, 1, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_decode_image_scales_floats_by_their_range(values, expected):
    assert decode_grey(encode(np.array([values], np.float32), "TIFF")) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70_000]], np.int32), "its integers range from 0 to 70000; rescale"),
        (np.array([[-3, 200]], np.int32), "its integers range from -3 to 200; rescale"),
        (np.array([[0.0, 256.5]], np.float32), "its floats range from 0 to 256.5; rescale"),
        (np.array([[-0.5, 1.0]], np.float32), "its floats range from -0.5 to 1; rescale"),
        (np.array([[np.nan, 1.0]], np.float32), "its floats range from nan to nan; rescale"),
    ],
)
def test_decode_image_error_names_a_range_without_a_known_scale(values, message):
    with pytest.raises(UserError, match=f"^a/b.tif cannot be decoded as an image: {message}"):
        decode_image(encode(values, "TIFF"), 0, "a/b.tif")


def test_decode_image_composites_transparent_pixels_on_white():
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    assert decode_image(save(rgba, "PNG"), 0, "x")[0].tolist() == [[10, 20, 30], [255] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    data = save(palette, "PNG", transparency=b"\xff\x00")
    assert decode_image(data, 0, "x")[0].tolist() == [[10, 20, 30], [255] * 3]
    grey = Image.fromarray(np.array([[0x1234, 0x1235, 0]], np.uint16))
    assert decode_grey(save(grey, "PNG", transparency=0x1234)) == [255, 0x12, 0]


def test_decode_image_converts_cmyk_to_rgb():
    image = decode_image(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 0, "x")
    np.testing.assert_allclose(image[0, 0], [255, 0, 0], atol=4)


def test_decode_image_applies_the_exif_orientation():
    exif = Image.Exif()
    for orientation in (*range(1, 9), 9):
        exif[0x0112] = orientation
        data = save(Image.fromarray(RGB), "PNG", exif=exif)
        image = decode_image(data, 0, "x")
        with Image.open(io.BytesIO(data)) as file:
            np.testing.assert_array_equal(image, np.asarray(ImageOps.exif_transpose(file)))
        if orientation == 6:  # rotate clockwise to display
            np.testing.assert_array_equal(image, np.rot90(RGB, -1))


@pytest.mark.parametrize(
    "tag",
    [(0x0100, 2, 4, b"abc\0"), (0x011C, 9, 1, struct.pack("<i", -5))],
    ids=["text in place of a number", "a negative number"],
)
def test_decode_image_does_not_call_odd_exif_tags_damage(tag):
    entries = [tag, (0x0112, 3, 1, struct.pack("<HH", 6, 0))]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    exif += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    data = save(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert decode_image(data, 0, "x").shape == (8, 4, 3)


def test_decode_image_ignores_exif_data_that_cannot_be_read():
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nnot hexadecimal")
    data = save(Image.fromarray(RGB), "PNG", pnginfo=text)
    np.testing.assert_array_equal(decode_image(data, 0, "x"), RGB)


def test_decode_image_resizes_the_shorter_side_and_crops_the_centre():
    wide = np.zeros([20, 60, 3], np.uint8)
    wide[:, 20:40] = 200
    image = decode_image(encode(wide), 10, "x")
    assert image.shape == (10, 10, 3)
    assert (image[:, 2:8] == 200).all()


def test_decode_image_resizes_with_antialiasing():
    checkerboard = (np.indices([64, 64]).sum(0) % 2 * 255).astype(np.uint8)
    np.testing.assert_allclose(decode_image(encode(checkerboard), 16, "x"), 127.5, atol=8)


def test_decode_image_resizes_the_given_box():
    image = random_images(20, 30, 3)
    out = decode_image(encode(image), 5, "x", lambda width, height: (10, 5, 15, 10))
    np.testing.assert_array_equal(out, image[5:10, 10:15])


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
def test_decode_image_error_names_a_damaged_file(data):
    with pytest.raises(UserError, match=r"^some/file\.png cannot be decoded as an image: .+$"):
        decode_image(data, 0, "some/file.png")


def test_random_resized_box_has_the_area_and_aspect_ratio_of_imagenet_training():
    boxes = np.array([random_resized_box(np.random.default_rng(i))(300, 200) for i in range(500)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.all(boxes >= 0)
    assert np.all(boxes[:, 2] <= 300)
    assert np.all(boxes[:, 3] <= 200)
    fraction, ratio = width * height / 60_000, width / height
    assert 0.07 < fraction.min() < 0.12
    assert 0.85 < fraction.max() < 0.89  # 8/9 has the ratio 4/3
    assert 0.74 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.35


def test_random_resized_box_of_a_strip_is_its_centre():
    box = random_resized_box(np.random.default_rng(0))(1000, 10)  # no draw fits
    np.testing.assert_allclose(box, ((1000 - 40 / 3) / 2, 0, (1000 + 40 / 3) / 2, 10))


def test_imagenet_crop_box_has_224_of_256_pixels():
    assert imagenet_crop_box(256, 512) == (16, 144, 240, 368)


def test_image_suffixes_are_those_of_decodable_formats():
    assert {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"} < {*IMAGE_SUFFIXES}
    assert {".jfif", ".avif"} < {*IMAGE_SUFFIXES}
    assert not {".pdf", ".h5", ".mpg", ".txt"} & {*IMAGE_SUFFIXES}
