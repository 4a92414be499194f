"""A picture for people's eyes: upright, on white where it is transparent, and small."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

_LAPLACE_SIDE = 224


def thumbnail(source: Path | BinaryIO, side: int) -> Image.Image:
    """The picture in RGB, turned as EXIF says, its longer side at most `side`. Raises an OSError or a ValueError."""
    with Image.open(source) as image:
        image.draft("RGB", (2 * side, 2 * side))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # 16 bits of grey: the upper eight are the picture
            return _small(Image.fromarray((np.asarray(image).clip(0, 0xFFFF) // 256).astype(np.uint8)), side)
        return _small(image, side)


def _small(image: Image.Image, side: int) -> Image.Image:
    # Converted first: a palette's numbers can't be averaged.
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small


def sharpness(picture: Image.Image) -> float:
    """The variance of the Laplacian of the grey picture (0 to 255) at 224×224, the tower's size: low is blurred."""
    grey = picture.convert("L").resize((_LAPLACE_SIDE, _LAPLACE_SIDE), Image.Resampling.BILINEAR)
    p = np.asarray(grey, dtype=np.float32)
    laplace = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    return float(laplace.var())
