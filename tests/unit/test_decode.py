"""Decoding: right pixels for every kind of picture, a clear status for every kind of damage."""

import contextlib
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from consumers.image_status import ImageStatus
from tests.pictures.hand_made import chunk, encoded
from worker.decode import DecodeLimits, decode
from worker.errors import ImageError

LIMITS = DecodeLimits()


def picture(mode: str = "RGB", size: tuple[int, int] = (224, 224)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def mean(values: np.ndarray, part: slice) -> tuple[int, ...]:
    """The mean colour of some columns, away from the edges."""
    return tuple(int(value) for value in values[:, 10:-10, part].mean(axis=(1, 2)).round())


LEFT, RIGHT = slice(10, 90), slice(-90, -10)
FORMATS = ["JPEG", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(224, 224), (1200, 800), (50, 300)])
def test_each_format_gives_its_colours(format: str, size: tuple[int, int]) -> None:
    """RGB, 3 × 224 × 224, the whole picture: nothing is cropped."""
    pixels = decode(encoded(picture(size=size), format), LIMITS)
    assert pixels.values.shape == (3, 224, 224)
    assert pixels.values.dtype == np.uint8
    assert np.allclose(mean(pixels.values, LEFT), (200, 30, 30), atol=8)
    assert np.allclose(mean(pixels.values, RIGHT), (30, 30, 200), atol=8)


def test_the_same_pixels_have_the_same_digest() -> None:
    """The digest is of what is looked at, not of the file."""
    a, b = (decode(encoded(picture(), "PNG", compress_level=level), LIMITS) for level in (1, 9))
    assert a.digest == b.digest != decode(encoded(picture(size=(100, 224)), "PNG"), LIMITS).digest


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_grey(mode: str) -> None:
    """Grey and black-and-white pictures have three equal channels."""
    values = decode(encoded(picture(mode), "PNG"), LIMITS).values
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[1], values[2])


def test_transparency_is_on_white() -> None:
    """A see-through part is white, in RGBA, in grey with alpha, and in a palette."""
    image = picture("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    half = picture("RGBA")
    half.putalpha(Image.new("L", image.size, 128))
    assert mean(decode(encoded(image, "PNG"), LIMITS).values, LEFT) == (255, 255, 255)
    assert mean(decode(encoded(image.convert("LA"), "PNG"), LIMITS).values, LEFT) == (255, 255, 255)
    assert np.allclose(mean(decode(encoded(half, "PNG"), LIMITS).values, LEFT), (227, 142, 142), atol=2)
    palette = Image.new("P", (50, 50), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert mean(decode(encoded(palette, "PNG", transparency=1), LIMITS).values, LEFT) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_picture_is_bad(format: str, share: float) -> None:
    """Half a picture isn't used, wherever it ends."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    data = encoded(noise, format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)], LIMITS)
    assert caught.value.status is ImageStatus.BAD_IMAGE


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", ImageStatus.BAD_IMAGE),
        (b"<html><body>404</body></html>", ImageStatus.BAD_IMAGE),
        (b"\x00" * 5000, ImageStatus.BAD_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ImageStatus.UNSUPPORTED),
        (encoded(picture(), "BMP"), ImageStatus.UNSUPPORTED),
        (encoded(picture(), "TIFF"), ImageStatus.UNSUPPORTED),
    ],
)
def test_what_is_no_picture_of_ours(data: bytes, status: ImageStatus) -> None:
    """Another format is unsupported, anything else is bad; the name of the file says nothing."""
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.status is status


def test_a_bomb_is_too_large_before_it_is_decoded() -> None:
    """Pixels are bounded by what the header says, whatever the file's size."""
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.status is ImageStatus.TOO_LARGE


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_of_hardly_any_pixels_is_a_picture(format: str, size: tuple[int, int]) -> None:
    """One pixel, or a line of them, fills the tower's square."""
    pixels = decode(encoded(Image.new("RGB", size, (200, 30, 30)), format), LIMITS)
    assert np.allclose(mean(pixels.values, LEFT), (200, 30, 30), atol=10)


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "CMYK", "L"])
def test_each_mode_keeps_its_shade(mode: str) -> None:
    """Whatever a format can hold comes out as RGB, as light as it was."""
    image = Image.new("RGB", (40, 40), (120, 120, 120))
    image = Image.fromarray(np.full((40, 40), 120 * 257, np.uint16)) if mode == "I;16" else image.convert(mode)
    values = decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), LIMITS).values
    assert values.shape == (3, 224, 224)
    assert np.allclose(mean(values, LEFT), (120, 120, 120), atol=3)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + b"garbage" * 5,
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\x06\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08",
    ],
)
def test_damaged_exif_costs_no_picture(exif: bytes) -> None:
    """The pixels are sound, so they are looked at, however the rest of the header reads."""
    assert decode(encoded(picture(), "JPEG", exif=exif), LIMITS).values.shape == (3, 224, 224)


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A small PNG with one more chunk after its header."""
    png = encoded(picture(size=(20, 20)), "PNG")
    return png[:33] + chunk(kind, data) + png[33:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 100_000_000)),
        with_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 100_000_000)),
        with_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"\0" * 100_000_000)),
    ],
    ids=["zTXt", "iCCP", "iTXt"],
)
def test_a_bomb_in_the_header_is_not_unpacked(data: bytes) -> None:
    """100 MB of zeros in a text chunk or a profile cost neither time nor memory."""
    tracemalloc.start()
    with contextlib.suppress(ImageError):
        decode(data, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (0, 0), (0, 5), (2**31 - 1, 1), (100_000, 100_000)])
def test_a_header_that_lies_about_the_size_is_refused(size: tuple[int, int]) -> None:
    """What the header claims is never allocated."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.status in (ImageStatus.TOO_LARGE, ImageStatus.BAD_IMAGE)


def test_a_gif_frame_beyond_its_screen_is_bounded() -> None:
    """The screen says 1×1, the frame 60,000×60,000: the frame counts."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x44\x01\x00;"
    with pytest.raises(ImageError) as caught:
        decode(screen + frame, LIMITS)
    assert caught.value.status is ImageStatus.TOO_LARGE


SEEDS = [encoded(picture(size=(40, 40)), format) for format in (*FORMATS, "GIF")]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), max_size=4))
def test_any_damage_is_pixels_or_a_status(seed: bytes, damage: list[tuple[int, bytes]]) -> None:
    """Bytes overwritten anywhere in a picture raise nothing but an `ImageError`."""
    data = bytearray(seed)
    for place, new in damage:
        place %= len(data)
        data[place : place + len(new)] = new
    with contextlib.suppress(ImageError):
        assert decode(bytes(data), DecodeLimits(max_pixels=1_000_000)).values.shape == (3, 224, 224)
