"""Of what moves the first frame is seen, on a canvas that counts in full."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from model.errors import PictureTooLarge
from model.pixels import read_pixels
from tests.pictures.hand_made import (
    RGB,
    GifFrame,
    chunk,
    encoded,
    frame_control,
    gif,
    png,
    webp,
    webp_animation,
    webp_chunk,
)

SIDE = 224
RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
PALETTE_128 = RANDOM.integers(0, 256, (128, 3)).astype(np.uint8)
INDICES = RANDOM.integers(0, 128, (SIDE, SIDE)).astype(np.uint8)


def seen(data: bytes) -> np.ndarray:
    """The pixels as (H, W, C), signed, so that they can be subtracted."""
    return read_pixels(data).transpose(1, 2, 0).astype(np.int64)


@pytest.mark.parametrize("disposal", range(4))
def test_of_a_gif_the_first_frame_is_seen(disposal: int) -> None:
    """Whatever becomes of it afterwards; round it there is nothing, which is white."""
    small = GifFrame(indices=INDICES[:80, :100], corner=(30, 50), disposal=disposal)
    rest = (GifFrame(indices=INDICES), GifFrame(indices=INDICES[::-1]))
    wanted = np.full((SIDE, SIDE, 3), 255)
    wanted[50:130, 30:130] = PALETTE_128[INDICES[:80, :100]]
    assert np.array_equal(seen(gif((SIDE, SIDE), PALETTE_128, small, *rest)), wanted)


def test_a_see_through_entry_and_a_palette_of_the_frame() -> None:
    """Of the two palettes the frame's own counts."""
    own = PALETTE_128[::-1]
    frame = GifFrame(indices=INDICES, clear=7, palette=own)
    wanted = np.where((INDICES == 7)[..., None], 255, own[INDICES])
    assert np.array_equal(seen(gif((SIDE, SIDE), PALETTE_128, frame)), wanted)


def test_of_an_apng_the_first_frame_is_seen() -> None:
    """The frames behind it aren't read, and needn't be sound."""
    start = chunk(b"acTL", struct.pack(">II", 2, 0)) + frame_control(0, SIDE, SIDE)
    behind = frame_control(1, SIDE, SIDE) + chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(b"\0"))
    assert np.array_equal(seen(png(COLOURS, start, colour=RGB, behind=behind)), COLOURS)


@pytest.mark.parametrize("has_alpha", [False, True])
def test_of_an_animated_webp_the_first_frame_is_seen(has_alpha: bool) -> None:
    """A frame smaller than the canvas has white round it, whether the file speaks of alpha or not."""
    samples = np.dstack([COLOURS, INDICES * 2]) if has_alpha else COLOURS
    frames = (((30, 50), samples[:80, :100]), ((0, 0), samples))
    wanted = np.full((SIDE, SIDE, 3), 255.0)
    shown = COLOURS[:80, :100]
    wanted[50:130, 30:130] = 255 + (shown - 255.0) * (INDICES[:80, :100, None] * 2 / 255) if has_alpha else shown
    data = webp_animation((SIDE, SIDE), *frames, has_alpha=has_alpha)
    assert np.abs(seen(data) - wanted).max() <= (1 if has_alpha else 0)


def test_of_an_avif_sequence_the_first_frame_is_seen() -> None:
    """As of the others."""
    first, other = Image.new("RGB", (SIDE, SIDE), (200, 30, 30)), Image.new("RGB", (SIDE, SIDE), (30, 30, 200))
    data = encoded(first, "AVIF", save_all=True, append_images=[other, other], quality=95)
    assert np.abs(seen(data) - (200, 30, 30)).max() <= 4


def test_the_canvas_counts_as_pixels() -> None:
    """A huge screen is refused, however small the frame on it."""
    tiny = np.zeros((2, 2, 3), np.uint8)
    header = b"\x10\0\0\0" + b"\xff\xff\x3f" * 2
    for data in (
        gif((60_000, 60_000), PALETTE_128, GifFrame(indices=INDICES[:2, :2])),
        gif((2, 2), PALETTE_128, GifFrame(indices=INDICES[:2, :2], corner=(60_000, 60_000))),
        webp_animation((1 << 20, 1 << 20), ((0, 0), tiny), has_alpha=False),
        webp(webp_chunk(b"VP8X", header), webp_chunk(b"VP8L", b"\x2f\0\0\0\0")),
    ):
        with pytest.raises(PictureTooLarge):
            read_pixels(data)
