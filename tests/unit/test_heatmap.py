"""The attention over a picture: the right pixels light up, in an order of brightness that can be trusted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from model.heatmap import colours, heat, overlay, scale_of, spread_of
from model.pictures import sharpness, thumbnail

SIDE = 7


def peak_at(row: int, column: int, weight: float = 0.5) -> tuple[float, ...]:
    """An even attention but for one region with `weight`."""
    rest = (1 - weight) / (SIDE * SIDE - 1)
    return tuple(weight if n == row * SIDE + column else rest for n in range(SIDE * SIDE))


@pytest.mark.parametrize("size", [(224, 224), (480, 169), (99, 301)])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (2, 5), (6, 0), (6, 6)])
def test_a_peak_lights_its_own_region(size: tuple[int, int], row: int, column: int) -> None:
    """The brightest pixel lies in the region of the peak, and its centre has the region's whole weight."""
    lit = heat(peak_at(row, column), size)
    width, height = size
    assert lit.shape == (height, width)
    y, x = np.unravel_index(lit.argmax(), lit.shape)
    assert (int(y * SIDE / height), int(x * SIDE / width)) == (row, column)
    assert lit[int((row + 0.5) * height / SIDE), int((column + 0.5) * width / SIDE)] > 0.95


def test_the_peak_ends_at_the_centres_of_its_neighbours() -> None:
    """Bilinear: half the heat at the border of two regions, none beyond the next region's centre."""
    lit = heat(peak_at(3, 3), (700, 700))
    assert lit[350, 400] == pytest.approx(0.5, abs=0.02)
    assert lit[350, 455:].max() < 0.01
    assert lit[:245].max() < 0.01


def test_an_even_attention_looks_even() -> None:
    """Noise around an even share isn't blown up to a pattern of black and white."""
    even = np.full(SIDE * SIDE, 1 / 49) + np.linspace(-1e-4, 1e-4, SIDE * SIDE)
    lit = heat(tuple(even), (70, 70))
    assert np.ptp(lit) < 0.02
    low, high = scale_of(tuple(even))
    assert high - low >= 1 / 49


def test_more_heat_is_more_light() -> None:
    """Luminance rises with heat all the way, so that the map reads without its colours too."""
    rgb = colours(np.linspace(0, 1, 101)).astype(float)
    luminance = rgb @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()


def test_the_overlay_lights_the_picture_where_the_peak_is() -> None:
    """The overlay has the picture's size, and is brightest in the peak's corner."""
    picture = Image.new("RGB", (140, 70), (90, 90, 90))
    grey = np.asarray(overlay(picture, peak_at(0, 6)).convert("L")).astype(int)
    assert grey.shape == (70, 140)
    assert grey[:10, 120:].mean() > grey[60:, :20].mean() + 60


def test_weights_that_fill_no_square_are_refused() -> None:
    """48 weights are a mistake of the caller, and are said to be."""
    with pytest.raises(ValueError, match="48 regions"):
        heat((1 / 48,) * 48, (10, 10))


def test_the_spread_counts_regions() -> None:
    """One region alone is 1, all alike are 49."""
    assert spread_of((1.0, *[0.0] * 48)) == pytest.approx(1)
    assert spread_of((1 / 49,) * 49) == pytest.approx(49)


def test_a_blur_is_less_sharp_at_any_size() -> None:
    """Sharpness falls with a blur, and is that of the tower's size however large the picture."""
    noise = np.random.default_rng(0).integers(0, 255, (56, 56), dtype=np.uint8)
    sharp = Image.fromarray(noise).resize((896, 896), Image.Resampling.NEAREST)
    blurred = sharp.filter(ImageFilter.GaussianBlur(30))
    assert sharpness(sharp) > 50 > sharpness(blurred)
    assert sharpness(sharp.resize((448, 448))) == pytest.approx(sharpness(sharp), rel=0.3)


def test_a_thumbnail_is_upright_white_and_small(tmp_path: Path) -> None:
    """EXIF turns it, transparency is white, and the longer side is what was asked for."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert thumbnail(tmp_path / "turned.jpg", 50).size == (25, 50)
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert thumbnail(tmp_path / "clear.png", 50).getpixel((10, 10)) == (255, 255, 255)
    Image.fromarray(np.full((10, 10), 0x8000, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert thumbnail(tmp_path / "deep.png", 50).getpixel((5, 5)) == (128, 128, 128)
