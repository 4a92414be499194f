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
_VEIL = 0.55
"""The share of colour in the mixture: a peak shows on a white picture, and the picture under it too."""
_LEAST_RANGE = 1.0
"""Even shares from the darkest to the brightest colour, at least: an even attention shall look even."""


def heat(attention: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Heat (H, W) from 0 to 1 of weights (S·S), row by row, spread bilinearly over a picture of size (W, H).

    The ends are those of `scale_of`. Raises a ValueError where the weights fill no square.
    """
    side = math.isqrt(len(attention))
    if side == 0 or side * side != len(attention):
        raise ValueError(f"attention over {len(attention)} regions fills no square")
    cells = np.asarray(attention, dtype=np.float32).reshape(side, side)
    spread = Image.fromarray(cells).resize(size, Image.Resampling.BILINEAR)
    low, high = scale_of(attention)
    return ((np.asarray(spread) - low) / (high - low)).clip(0, 1)


def scale_of(attention: Sequence[float]) -> tuple[float, float]:
    """The weights that get the darkest and the brightest colour: the least and, unless too near to it, the greatest."""
    low = min(attention)
    return low, max(*attention, low + _LEAST_RANGE / len(attention))


def colours(heat: np.ndarray) -> np.ndarray:
    """RGB (…, 3) in uint8 of heat (…) from 0 to 1."""
    at = np.linspace(0, 1, len(_STOPS))
    return np.stack([np.interp(heat, at, _STOPS[:, part]) for part in range(3)], axis=-1).round().astype(np.uint8)


def overlay(picture: Image.Image, attention: Sequence[float]) -> Image.Image:
    """`picture` under the colours of its attention, of the same size: in grey, so that all colour is attention."""
    veil = Image.fromarray(colours(heat(attention, picture.size)))
    return Image.blend(picture.convert("L").convert("RGB"), veil, _VEIL)


def spread_of(attention: Sequence[float]) -> float:
    """How many regions share the attention: the exponential of its entropy, 1 to S·S."""
    return math.exp(-sum(weight * math.log(weight) for weight in attention if weight > 0))
