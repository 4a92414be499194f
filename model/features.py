"""Features of a data set's pictures, computed once by a frozen tower."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from model.data import ImageFolder
from model.tower import IMAGE_SIZE, MICRO_BATCH, Tower


@dataclass(slots=True)
class ImageFeatures:
    """Features (49, D) in fp16 by image id; a picture that is missing or broken is counted, and absent."""

    by_id: dict[str, Tensor] = field(default_factory=dict)
    num_missing: int = 0
    num_broken: int = 0

    def of(self, image_id: str | None) -> Tensor | None:
        """The features of a post's picture, None where there is none."""
        return None if image_id is None else self.by_id.get(image_id)


def load_pixels(path: Path) -> np.ndarray:
    """RGB pixels (3, 224, 224) in uint8: turned as EXIF says, resized without a crop. Raises an OSError."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * IMAGE_SIZE, 2 * IMAGE_SIZE))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        small = upright.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))


def compute_features(
    image_ids: Iterable[str | None],
    folder: ImageFolder | None,
    tower: Tower,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> ImageFeatures:
    """Look once at each picture of `image_ids` in `folder`."""
    features = ImageFeatures()
    distinct = sorted({identity for identity in image_ids if identity is not None})
    waiting: list[tuple[str, np.ndarray]] = []
    for number, identity in enumerate(distinct, 1):
        path = folder.find(identity) if folder is not None else None
        if path is None:
            features.num_missing += 1
        else:
            try:
                waiting.append((identity, load_pixels(path)))
            except (OSError, ValueError, SyntaxError):
                features.num_broken += 1
        if waiting and (len(waiting) == MICRO_BATCH or number == len(distinct)):
            seen = tower(torch.from_numpy(np.stack([pixels for _, pixels in waiting])))
            features.by_id |= dict(zip([name for name, _ in waiting], seen, strict=True))
            waiting.clear()
            on_progress(number, len(distinct))
    return features
