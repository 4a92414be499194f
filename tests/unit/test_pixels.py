"""The right pixels of every kind of picture, against references that no decoder has had a hand in.

Pictures of 224 × 224 aren't resized, so that lossless ones are compared to the bit.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from model.errors import PictureError, PictureUnsupported
from model.features import load_pixels
from model.pixels import read_pixels
from tests.pictures.hand_made import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    chunk,
    encoded,
    png,
    segment,
)

SIDE = 224
RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
BITS_16 = RANDOM.integers(0, 1 << 16, (SIDE, SIDE, 4)).astype(np.uint16)
PALETTE_128 = RANDOM.integers(0, 256, (128, 3)).astype(np.uint8)
INDICES = RANDOM.integers(0, 128, (SIDE, SIDE)).astype(np.uint8)


def seen(data: bytes) -> np.ndarray:
    """The pixels as (H, W, C), signed, so that they can be subtracted."""
    return read_pixels(data).transpose(1, 2, 0).astype(np.int64)


def grey(shades: np.ndarray) -> np.ndarray:
    """(H, W) as three equal channels."""
    return np.repeat(shades[..., None].astype(np.int64), 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) laid on white by alpha (H, W), both of 0 to 255."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def test_eight_bits_are_kept_to_the_bit() -> None:
    """RGB and grey PNG."""
    assert np.array_equal(seen(png(COLOURS, colour=RGB)), COLOURS)
    assert np.array_equal(seen(png(COLOURS[..., 0], colour=GREY)), grey(COLOURS[..., 0]))


@pytest.mark.parametrize("depth", [4, 8, 16])
def test_an_interlaced_png(depth: int) -> None:
    """Its seven passes are put together, whatever the size."""
    shades = BITS_16[..., 0] >> (16 - depth)
    wanted = grey(shades * 17 if depth == 4 else shades >> (depth - 8))
    assert np.array_equal(seen(png(shades, colour=GREY, depth=depth, interlaced=True)), wanted)
    assert np.abs(seen(png(shades[:3, :5], colour=GREY, depth=depth, interlaced=True))[0, 0] - wanted[0, 0]).max() <= 1


def test_of_sixteen_bits_the_upper_eight_are_seen() -> None:
    """In grey and in RGB, with alpha and without."""
    upper = BITS_16 >> 8
    assert np.array_equal(seen(png(BITS_16[..., 0], colour=GREY, depth=16)), grey(upper[..., 0]))
    assert np.array_equal(seen(png(BITS_16[..., :3], colour=RGB, depth=16)), upper[..., :3])
    wanted = on_white(upper[..., :3], upper[..., 3])
    assert np.abs(seen(png(BITS_16, colour=RGBA, depth=16)) - wanted).max() <= 1
    wanted = on_white(grey(upper[..., 0]), upper[..., 1])
    assert np.abs(seen(png(BITS_16[..., :2], colour=GREY_ALPHA, depth=16)) - wanted).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_of_grey_reach_from_black_to_white(depth: int) -> None:
    """One bit is black or white; two and four are spread evenly."""
    most = (1 << depth) - 1
    samples = INDICES & most
    assert np.array_equal(seen(png(samples, colour=GREY, depth=depth)), grey(samples.astype(np.int64) * 255 // most))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_with_and_without_alpha(depth: int) -> None:
    """Each entry has a colour and may have an alpha; those that lack one are opaque."""
    size = min(1 << depth, 128)
    samples = INDICES % size
    palette = chunk(b"PLTE", PALETTE_128[:size].tobytes())
    assert np.array_equal(seen(png(samples, palette, colour=PALETTE, depth=depth)), PALETTE_128[samples])
    alphas = RANDOM.integers(0, 256, size).astype(np.uint8)
    alphas[-1] = 255
    see_through = chunk(b"tRNS", alphas[:-1].tobytes())
    wanted = on_white(PALETTE_128[samples], alphas[samples])
    assert np.abs(seen(png(samples, palette, see_through, colour=PALETTE, depth=depth)) - wanted).max() <= 1


def test_alpha_is_laid_on_white() -> None:
    """In RGBA and in grey with alpha, of PNG and of WebP."""
    four = np.dstack([COLOURS, INDICES * 2])
    wanted = on_white(COLOURS, INDICES * 2)
    assert np.abs(seen(png(four, colour=RGBA)) - wanted).max() <= 1
    assert np.abs(seen(encoded(Image.fromarray(four), "WEBP", lossless=True, exact=True)) - wanted).max() <= 1
    wanted = on_white(grey(COLOURS[..., 0]), COLOURS[..., 1])
    assert np.abs(seen(png(COLOURS[..., :2], colour=GREY_ALPHA)) - wanted).max() <= 1


@pytest.mark.parametrize(("depth", "shade", "others"), [(1, 0, 0), (2, 1, 0), (4, 5, 0), (8, 77, 0), (8, 77, 0x100)])
def test_a_see_through_shade_of_grey(depth: int, shade: int, others: int) -> None:
    """It is counted in the picture's own bits, whatever stands in those above them."""
    most = (1 << depth) - 1
    samples = (INDICES * 2 & most).astype(np.int64)
    wanted = np.where(samples == shade, 255, samples * 255 // most)
    data = png(samples, chunk(b"tRNS", struct.pack(">H", shade | others)), colour=GREY, depth=depth)
    assert np.array_equal(seen(data), grey(wanted))


def test_a_see_through_shade_of_sixteen_bits() -> None:
    """Of grey to the last bit; of colours as far as their upper eight bits tell."""
    shades = BITS_16[..., 0].copy()
    shades[:50] = 0x1234
    shades[50:60] = 0x1235
    wanted = np.where(shades == 0x1234, 255, shades >> 8)
    data = png(shades, chunk(b"tRNS", struct.pack(">H", 0x1234)), colour=GREY, depth=16)
    assert np.array_equal(seen(data), grey(wanted))
    colours = BITS_16[..., :3].copy()
    colours[:50] = (0xFF00, 0x1234, 0)
    data = png(colours, chunk(b"tRNS", struct.pack(">HHH", 0xFF00, 0x1234, 0)), colour=RGB, depth=16)
    assert (seen(data)[:50] == 255).all()
    assert np.array_equal(seen(data)[50:], colours[50:] >> 8)


def test_a_see_through_colour() -> None:
    """Pixels of exactly this colour are white, and no others."""
    colours = COLOURS.copy()
    colours[:50] = (1, 2, 3)
    data = png(colours, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)), colour=RGB)
    assert (seen(data)[:50] == 255).all()
    assert np.array_equal(seen(data)[50:], colours[50:])


def test_cmyk_as_adobe_writes_it() -> None:
    """Ink is stored upside down: what is seen is (255 − C)(255 − K) / 255."""
    for ink in ((0, 200, 200, 0), (10, 20, 30, 100), (255, 0, 0, 0), (0, 0, 0, 255)):
        data = encoded(Image.new("CMYK", (SIDE, SIDE), ink), "JPEG", quality=100)
        assert b"Adobe" in data
        wanted = [(255 - part) * (255 - ink[3]) / 255 for part in ink[:3]]
        assert np.abs(seen(data) - wanted).max() <= 3


def test_ycck_as_adobe_writes_it() -> None:
    """The mark says that the inks' three colours are stored as brightness and hues."""
    ink = (40, 110, 160, 50)
    data = bytearray(encoded(Image.new("CMYK", (SIDE, SIDE), ink), "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    y, cb, cr, k = (255 - part for part in ink)
    rgb = (y + 1.402 * (cr - 128), y - 0.344 * (cb - 128) - 0.714 * (cr - 128), y + 1.772 * (cb - 128))
    # The inks are stored as 255 − RGB and then, like the black, upside down.
    wanted = [(255 - min(max(part, 0), 255)) * k / 255 for part in rgb]
    assert np.abs(seen(bytes(data)) - wanted).max() <= 4


def test_a_jpeg_of_rgb() -> None:
    """One that says its colours aren't brightness and hues."""
    data = encoded(Image.new("RGB", (SIDE, SIDE), (200, 30, 90)), "JPEG", quality=100, keep_rgb=True)
    assert np.abs(seen(data) - (200, 30, 90)).max() <= 2


SLOPES = np.fromfunction(lambda y, x, c: (y * (c + 1) / 2 + x * (3 - c) / 4) % 256, (SIDE, SIDE, 3))
"""Smooth, for the formats that lose something, and the same from no two sides."""
SLOPES = np.clip(SLOPES * 0.4 + 60, 0, 255).astype(np.uint8)
STORED = {
    1: SLOPES,
    2: SLOPES[:, ::-1],
    3: SLOPES[::-1, ::-1],
    4: SLOPES[::-1],
    5: SLOPES.transpose(1, 0, 2),
    6: np.rot90(SLOPES),
    7: SLOPES[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(SLOPES, -1),
}
"""How an upright picture lies in the file, by the number that EXIF has for it."""


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG", "AVIF"])
def test_each_turn_stands_the_picture_up(format: str, turn: int) -> None:
    """All eight, in every format that can say it."""
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if format == "WEBP" else {"quality": 95}
    data = encoded(Image.fromarray(np.ascontiguousarray(STORED[turn])), format, exif=exif, **options)
    assert np.abs(seen(data) - SLOPES).mean() <= (0 if format in ("PNG", "WEBP") else 3)


def test_a_turn_of_other_kinds() -> None:
    """Grey of sixteen bits, and a wide picture that is to stand."""
    turn = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    lying = np.rot90(BITS_16[..., 0])
    assert np.array_equal(seen(png(lying, turn, colour=GREY, depth=16)), grey(BITS_16[..., 0] >> 8))
    assert np.array_equal(seen(png(lying, colour=GREY, depth=16, behind=turn)), grey(BITS_16[..., 0] >> 8))
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :150] = (200, 30, 30)
    upright = seen(png(wide, turn, colour=RGB))  # left goes up
    assert (upright[:100] == (200, 30, 30)).all() and (upright[-100:] == 0).all()


def test_a_large_jpeg_is_decoded_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    """At an eighth, here; the shades are those of the whole."""
    sizes: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def noted(self: JpegImagePlugin.JpegImageFile) -> object:
        sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", noted)
    large = np.kron(SLOPES, np.ones((16, 16, 1), np.uint8))
    assert np.abs(seen(encoded(Image.fromarray(large), "JPEG", quality=95)) - SLOPES).mean() <= 3
    assert sizes[0] == (448, 448)


JPEG = encoded(Image.fromarray(SLOPES), "JPEG", quality=90)


@pytest.mark.parametrize(
    "part",
    [
        segment(0xE2, b"ICC_PROFILE\0\x01\x03" + b"broken" * 20),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x01\0\x04\0\0\0\x01\0\0\0\x02\0\0\0\0"),
        segment(0xE2, b"MPF\0II*\0\xff\xff\xff\x7f"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 60_000),
        segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\x06\0\0\0") * 50,
        segment(0xFE, b"\xff\xd8\xff\xda" * 1000),
    ],
    ids=["ICC", "MPF without entries", "MPF", "Photoshop", "XMP", "huge EXIF", "EXIF of no sense", "comment"],
)
def test_what_stands_before_a_jpegs_pixels_costs_none(part: bytes) -> None:
    """Its pixels are those of the picture without it."""
    assert np.array_equal(seen(JPEG[:2] + part + JPEG[2:]), seen(JPEG))


def test_a_turn_counts_though_the_rest_of_its_exif_is_damaged() -> None:
    """The first tag says how the picture is turned; the second lies about its length."""
    tags = b"\x01\x12\0\x03\0\0\0\x01\0\x03\0\0" + b"\x87\x69\0\x04\x7f\xff\xff\xff\xff\xff\xff\xff"
    data = JPEG[:2] + segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + tags) + JPEG[2:]
    assert np.array_equal(seen(data), seen(JPEG)[::-1, ::-1])


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(100_000_000))),
        chunk(b"iCCP", b"k\0\x07nonsense"),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000))),
        chunk(b"acTL", b"\0"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0")[:-1] + b"?",
    ],
    ids=["profile bomb", "profile", "text bomb", "animation", "EXIF with a wrong checksum"],
)
def test_what_stands_before_a_pngs_pixels_costs_none(part: bytes) -> None:
    """As in JPEG."""
    assert np.array_equal(seen(png(COLOURS, part, colour=RGB)), COLOURS)


def test_a_phones_two_pictures_in_one_are_its_first() -> None:
    """MPO, which is two JPEGs in a row."""
    data = encoded(Image.fromarray(SLOPES), "MPO", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))])
    assert data.count(b"\xff\xd8\xff") == 2
    assert np.abs(seen(data) - SLOPES).mean() <= 3


def test_training_sees_what_the_worker_sees(tmp_path: Path) -> None:
    """The same pixels, also of the kinds that Pillow alone gets wrong; BMP and TIFF besides."""
    path = tmp_path / "picture"
    path.write_bytes(png(BITS_16, colour=RGBA, depth=16))
    assert np.array_equal(load_pixels(path), read_pixels(path.read_bytes()))
    for format in ("BMP", "TIFF"):
        path.write_bytes(encoded(Image.fromarray(COLOURS), format))
        assert np.array_equal(load_pixels(path).transpose(1, 2, 0), COLOURS)
        with pytest.raises(PictureUnsupported):
            read_pixels(path.read_bytes())
    with pytest.raises(PictureError):
        load_pixels(tmp_path / "none")
