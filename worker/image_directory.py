"""Pictures in a directory, for posts whose links are dead: by the media's id, or by the last part of the URL."""

import asyncio
import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from consumers.image_status import ImageStatus
from consumers.posts import PostImage
from worker.errors import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif")
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalImage:
    """A file with a picture. `name` changes with its content."""

    path: Path
    name: str
    max_bytes: int

    async def read(self) -> bytes:
        """Its bytes. Raises `ImageError`."""
        return await asyncio.to_thread(read_image_file, self.path, self.max_bytes)


class ImageDirectory:
    """The files right in a directory, which an operator has put there; no name in a post leads out of it."""

    def __init__(self, path: Path, *, max_image_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_image_bytes

    async def find(self, image: PostImage) -> LocalImage | None:
        """The file for `image`: `<media id>.jpg`, the URL's name as it stands, or with another ending."""
        return await asyncio.to_thread(self._find, image)

    def _find(self, image: PostImage) -> LocalImage | None:
        for name in candidates(image):
            path = self._path / name
            try:
                found = path.stat()
            except (OSError, ValueError):  # half of a surrogate pair is no name
                continue
            if stat.S_ISREG(found.st_mode):
                stamp = f"file:{path}:{found.st_mtime_ns}:{found.st_size}"
                digest = hashlib.sha256(stamp.encode("utf-8", "surrogatepass")).hexdigest()
                return LocalImage(path=path, name=f"file:{digest}", max_bytes=self._max_bytes)
        return None


def candidates(image: PostImage) -> Iterator[str]:
    """The file names to look for, the likeliest first; every one is a name, and no path."""
    names: list[str] = []
    try:
        # As in https://pbs.twimg.com/media/ABC.jpg:large
        last = unquote(urlsplit(image.url).path.rpartition("/")[2]).partition(":")[0]
    except ValueError:
        last = ""
    stem = last.rpartition(".")[0] if last.lower().endswith(SUFFIXES) else last
    if image.media_id:
        names += [image.media_id + suffix for suffix in SUFFIXES]
    if last:
        names += [last, *(stem + suffix for suffix in SUFFIXES)]
    yield from filter(_is_name, dict.fromkeys(names))


def read_image_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file. Raises `ImageError`: `not_found` with the system's reason, or `too_large`."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(ImageStatus.NOT_FOUND, reason[:1].lower() + reason[1:]) from error
    if len(data) > max_bytes:
        raise ImageError(ImageStatus.TOO_LARGE, f"over {max_bytes} bytes")
    return data


def _is_name(name: str) -> bool:
    is_whole = not any(character in name for character in "/\\\0") and not name.startswith(".")
    return is_whole and 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES
