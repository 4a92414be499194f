"""Features of a data set's pictures, computed once by a frozen tower, and kept on disk if wished."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.data import ImageFolder
from model.errors import PictureError
from model.first_frame import FORMATS as WORKER_FORMATS
from model.pixels import read_pixels
from model.tower import MICRO_BATCH, Tower
from model.whole_file import whole_file

FORMATS = (*WORKER_FORMATS, "BMP", "TIFF")
"""A data set's, which no stranger chooses; Pillow would start other programs for some of the rest."""


@dataclass(slots=True)
class ImageFeatures:
    """Features (49, D) in fp16 by image id, and files; a picture that can't be trusted is counted, and absent.

    That is one that is missing, one that can't be decoded, and one that stands under several ids: the
    public sets' collectors put one and the same picture in the place of those they had lost.
    """

    by_id: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    num_missing: int = 0
    num_broken: int = 0
    num_duplicated: int = 0

    def of(self, image_id: str | None) -> Tensor | None:
        """The features of a post's picture, None where there is none."""
        return None if image_id is None else self.by_id.get(image_id)

    def add(self, other: "ImageFeatures") -> None:
        """Take in what was found in another folder."""
        self.by_id |= other.by_id
        self.files |= other.files
        self.num_missing += other.num_missing
        self.num_broken += other.num_broken
        self.num_duplicated += other.num_duplicated

    def __str__(self) -> str:
        return (
            f"{len(self.by_id)} pictures; missing {self.num_missing}, broken {self.num_broken}, "
            f"duplicated {self.num_duplicated}"
        )


class FeatureFolder:
    """Features on disk, each under the digests of the tower and of the picture file that it looked at."""

    def __init__(self, folder: Path, tower_digest: str) -> None:
        self._folder = folder / tower_digest

    def get(self, picture_digest: str) -> Tensor | None:
        """The features (49, D) of a picture, None where they aren't here whole."""
        try:
            features = np.load(self._path(picture_digest), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return torch.from_numpy(features) if features.dtype == np.float16 and features.ndim == 2 else None

    def put(self, picture_digest: str, features: Tensor) -> None:
        """Keep the features of a picture; a reader sees all of them or none. Raises `OutputError`."""
        # One that a power failure cuts short is looked at again: thousands of pictures needn't wait for the disk.
        with whole_file(self._path(picture_digest), durable=False) as file:
            # By way of memory: NumPy's own writing into a file forgets why it failed.
            buffer = io.BytesIO()
            np.save(buffer, features.numpy(), allow_pickle=False)
            file.write(buffer.getbuffer())

    def _path(self, picture_digest: str) -> Path:
        return self._folder / f"{picture_digest}.npy"


def load_pixels(path: Path) -> np.ndarray:
    """RGB pixels (3, 224, 224) in uint8: turned as EXIF says, resized without a crop. Raises `PictureError`."""
    try:
        return read_pixels(path.read_bytes(), formats=FORMATS)
    except (PictureError, OSError) as error:
        raise PictureError(f"{path.name}: {error}") from error


def compute_features(
    image_ids: Iterable[str | None],
    folder: ImageFolder | None,
    tower: Tower,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
    kept: FeatureFolder | None = None,
) -> ImageFeatures:
    """Look once at each picture of `image_ids` in `folder`, and at those in `kept` not even once."""
    features = ImageFeatures()
    trusted = _trusted(image_ids, folder, features)
    waiting: list[tuple[str, str, np.ndarray]] = []
    for number, (identity, (path, digest)) in enumerate(trusted.items(), 1):
        known = None if kept is None else kept.get(digest)
        if known is not None:
            features.by_id[identity] = known
            features.files[identity] = path
        else:
            try:
                waiting.append((identity, digest, load_pixels(path)))
                features.files[identity] = path
            except PictureError:
                features.num_broken += 1
        if waiting and (len(waiting) == MICRO_BATCH or number == len(trusted)):
            for identity_seen, digest_seen, seen in _look(tower, waiting):
                features.by_id[identity_seen] = seen
                if kept is not None:
                    kept.put(digest_seen, seen)
            waiting.clear()
            on_progress(number, len(trusted))
    return features


def _trusted(
    image_ids: Iterable[str | None], folder: ImageFolder | None, features: ImageFeatures
) -> dict[str, tuple[Path, str]]:
    """The file and its digest by image id, without the missing and the duplicated, which are counted."""
    found: dict[str, tuple[Path, str]] = {}
    for identity in sorted({identity for identity in image_ids if identity is not None}):
        path = None if folder is None else folder.find(identity)
        try:
            if path is None:
                features.num_missing += 1
            else:
                found[identity] = path, hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            features.num_broken += 1
    copies = Counter(digest for _, digest in found.values())
    features.num_duplicated += sum(count for count in copies.values() if count > 1)
    return {identity: pair for identity, pair in found.items() if copies[pair[1]] == 1}


def _look(tower: Tower, waiting: list[tuple[str, str, np.ndarray]]) -> Iterator[tuple[str, str, Tensor]]:
    pixels = torch.from_numpy(np.stack([pixels for _, _, pixels in waiting]))
    for (identity, digest, _), seen in zip(waiting, tower(pixels).cpu(), strict=True):
        yield identity, digest, seen.clone()
