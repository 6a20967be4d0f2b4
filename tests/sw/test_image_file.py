"""Pictures of every kind that PNG and JPEG files hold: the grey that a viewer shows, or refused by name."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from loralith.formats.image_file import ImageError, grey, read_image

RAMP = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17  # 0 to 255, each corner another


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def read(path):
    image = read_image(path)
    assert image.mode == "L"
    return np.asarray(image)


TURNED = {
    1: RAMP,
    2: RAMP[:, ::-1],
    3: RAMP[::-1, ::-1],
    4: RAMP[::-1],
    5: RAMP.T,
    6: np.rot90(RAMP, -1),
    7: RAMP[::-1, ::-1].T,
    8: np.rot90(RAMP),
}
"""What a viewer shows for each EXIF orientation, by the standard's table: 6 is turned clockwise, 8 the other way."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied(tmp_path, orientation, bits):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RAMP if bits == 8 else RAMP.astype(np.uint16) * 257)
    assert (read(saved(tmp_path, image, exif=exif)) == TURNED[orientation]).all()


def test_a_camera_that_was_held_sideways(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (32, 16))
    image.paste("white", (0, 0, 16, 16))
    upright = read(saved(tmp_path, image, "x.jpg", exif=exif, quality=95))
    assert upright.shape == (32, 16)
    assert upright[:14].min() > 240
    assert upright[18:].max() < 15


def test_grey_of_16_bits_keeps_its_levels(tmp_path):
    level = np.array([[0, 128, 129, 257], [32639, 32768, 65000, 65535]], np.uint16)
    got = read(saved(tmp_path, Image.fromarray(level)))
    assert got.tolist() == np.round(level / 257).astype(int).tolist()


@pytest.mark.parametrize(
    ("mode", "colour", "options", "wanted"),
    [
        ("1", 1, {}, 255),
        ("1", 0, {}, 0),
        ("L", 77, {}, 77),
        ("L", 77, {"transparency": 77}, 255),
        ("LA", (0, 128), {}, 127),
        ("RGB", (255, 0, 0), {}, 76),
        ("RGB", (0, 255, 0), {"transparency": (0, 255, 0)}, 255),
        ("RGBA", (0, 0, 0, 0), {}, 255),
        ("RGBA", (0, 0, 0, 64), {}, 191),
        ("P", 3, {}, 200),
        ("P", 3, {"transparency": 3}, 255),
        ("P", 3, {"transparency": bytes([0, 0, 0, 128])}, 227),
        ("I;16", 1000, {"transparency": 1000}, 255),
        ("I;16", 1000, {"transparency": 1001}, 4),
    ],
)
def test_modes_of_png(tmp_path, mode, colour, options, wanted):
    image = Image.new(mode, (3, 3), colour)
    if mode == "P":
        image.putpalette([0, 0, 0] * 3 + [200, 200, 200])
    assert set(read(saved(tmp_path, image, **options)).ravel().tolist()) == {wanted}


@pytest.mark.parametrize(("mode", "colour", "wanted"), [("L", 90, 90), ("RGB", (90, 90, 90), 90), ("CMYK", (0, 0, 0, 155), 100)])
def test_modes_of_jpeg(tmp_path, mode, colour, wanted):
    got = read(saved(tmp_path, Image.new(mode, (16, 16), colour), "x.jpg", quality=100))
    assert abs(got.astype(int) - wanted).max() <= 1


def test_a_name_may_be_another_formats(tmp_path):
    assert (read(saved(tmp_path, Image.fromarray(RAMP), "x.jpg", format="PNG")) == RAMP).all()


def test_of_a_cameras_file_with_a_preview_the_first_picture_counts(tmp_path):
    first, second = (Image.new("L", (16, 16), level) for level in (40, 200))
    path = saved(tmp_path, first, "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert abs(read(path).astype(int) - 40).max() <= 1


def png(width, height):
    """A header alone."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", sizes + bytes([8, 0, 0, 0, 0])) + chunk(b"IDAT", zlib.compress(b"\0"))


def encoded(image, form, **options):
    content = io.BytesIO()
    image.save(content, format=form, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: encoded(Image.new("L", (4, 4)), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)]), "is an animation"),
        (lambda: encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), "is a TIFF file; PNG and JPEG are read"),
        (lambda: encoded(Image.new("L", (4, 4)), "GIF"), "is a GIF file"),
        (lambda: encoded(Image.fromarray(RAMP), "PNG")[:-30], "is not an image, or is cut short"),
        (lambda: encoded(Image.new("RGB", (64, 64)), "JPEG")[:400], "is not an image, or is cut short"),
        (lambda: png(1 << 13, (1 << 13) + 1), "is 8192 x 8193; at most 67,108,864 pixels are read"),
        (lambda: png(1 << 15, 1 << 15), "is not an image, or is cut short: Image size"),
        (lambda: b"", "is not an image"),
        (lambda: b"not an image", "is not an image"),
    ],
)
def test_what_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "x.png").write_bytes(content())
    with pytest.raises(ImageError, match=rf"x\.png {message}"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV"])
def test_pixels_whose_black_and_white_are_not_defined_are_refused(tmp_path, monkeypatch, mode):
    """Pillow of today opens no PNG or JPEG in such a mode; another version may, as 9 did with 16-bit PNG."""

    def opened(path):
        image = Image.new(mode, (4, 4))
        image.format = "PNG"
        return image

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(ImageError, match=rf"x\.png has pixels of Pillow's mode {mode}, .*; save it with 8 or 16 bits"):
        read_image(tmp_path / "x.png")


def test_a_smaller_size_is_the_mean(tmp_path):
    assert np.asarray(grey(Image.fromarray(RAMP), 2)).tolist() == np.floor(RAMP.reshape(2, 2, 2, 2).mean(axis=(1, 3)) + 0.5).tolist()
