"""Attention over a picture: the weights of its regions as colours (Figure 5).

S regions a side (7), H and W the picture's height and width.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Inferno (Smith and van der Walt, 2015) at tenths: equal steps of attention look like equal steps.
_INFERNO = (
    0x000004, 0x160B39, 0x420A68, 0x6A176E, 0x932667, 0xBC3754, 0xDD513A, 0xF37819, 0xFCA50A, 0xF6D746, 0xFCFFA4,
)  # fmt: skip
_STOPS = np.array([[code >> 16, code >> 8 & 0xFF, code & 0xFF] for code in _INFERNO], dtype=np.float32)
_VEIL = 0.62
"""The share of colour in the mixture: the least at which a peak shows on a white picture."""
_FULL_SCALE = 4.0
"""The brightest colour is for no less than this many even shares, so that an even attention looks even."""


def heat(attention: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Heat (H, W) from 0 to 1 of weights (S·S), row by row, spread bilinearly over a picture of size (W, H).

    1 is the greatest weight, or four even shares where that is more. Raises a ValueError where the
    weights fill no square.
    """
    side = math.isqrt(len(attention))
    if side == 0 or side * side != len(attention):
        raise ValueError(f"attention over {len(attention)} regions fills no square")
    cells = np.asarray(attention, dtype=np.float32).reshape(side, side)
    spread = Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR)
    return (np.asarray(spread) / full_scale(attention)).clip(0, 1)


def full_scale(attention: Sequence[float]) -> float:
    """The weight that gets the brightest colour."""
    return max(*attention, _FULL_SCALE / len(attention))


def colours(heat: np.ndarray) -> np.ndarray:
    """RGB (…, 3) in uint8 of heat (…) from 0 to 1."""
    at = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(heat, at, _STOPS[:, part]) for part in range(3)], axis=-1).round().astype(np.uint8)


def overlay(picture: Image.Image, attention: Sequence[float]) -> Image.Image:
    """`picture` in RGB under the colours of its attention, of the same size."""
    veil = Image.fromarray(colours(heat(attention, picture.size)))
    return Image.blend(picture.convert("RGB"), veil, _VEIL)


def spread_of(attention: Sequence[float]) -> float:
    """How many regions share the attention: the exponential of its entropy, 1 to S·S."""
    return math.exp(-sum(weight * math.log(weight) for weight in attention if weight > 0))
