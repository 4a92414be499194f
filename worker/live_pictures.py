"""The pictures that the tagger looked at, small, for who watches: so that no browser asks a stranger's host."""

import asyncio
import io
from collections import OrderedDict

import numpy as np
from PIL import Image

MAX_PICTURES = 128
MAX_POSTS = 1024
JPEG_QUALITY = 82


class Gallery:
    """The last pictures, as pixels until the first asks for them, then as JPEG; in memory, and forgotten with posts."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, np.ndarray | bytes] = OrderedDict()
        self._shown_by: OrderedDict[str, set[str]] = OrderedDict()
        self._converting = asyncio.Lock()

    def __contains__(self, digest: object) -> bool:
        return digest in self._pictures

    def note(self, post_id: str, digest: str, pixels: np.ndarray | None) -> None:
        """That the post shows the picture, whose pixels (3, 224, 224) are at hand or not."""
        if pixels is not None:
            self._pictures.setdefault(digest, pixels)
        if digest not in self._pictures:
            return
        self._pictures.move_to_end(digest)
        if len(self._pictures) > MAX_PICTURES:
            self._pictures.popitem(last=False)
        # Also what an earlier event of the post showed, as long as it is here.
        shown = {each for each in self._shown_by.get(post_id, ()) if each in self._pictures}
        self._shown_by[post_id] = shown | {digest}
        self._shown_by.move_to_end(post_id)
        if len(self._shown_by) > MAX_POSTS:
            # With its pictures: its tombstone would find them no more.
            self.forget(next(iter(self._shown_by)))

    def forget(self, post_id: str) -> None:
        """Drop all pictures that the post showed, where no other post that is remembered shows them."""
        for digest in self._shown_by.pop(post_id, ()):
            if not any(digest in shown for shown in self._shown_by.values()):
                self._pictures.pop(digest, None)

    def clear(self) -> None:
        """Drop all."""
        self._pictures.clear()
        self._shown_by.clear()

    async def jpeg(self, digest: str) -> bytes | None:
        """The picture as JPEG; None for one that isn't here, or isn't any more."""
        # One at a time: the cores are the tagger's.
        async with self._converting:
            kept = self._pictures.get(digest)
            if kept is None or isinstance(kept, bytes):
                return kept
            data = await asyncio.to_thread(_jpeg, kept)
            if digest not in self._pictures:
                return None
            self._pictures[digest] = data
            return data


def _jpeg(pixels: np.ndarray) -> bytes:
    """JPEG of RGB pixels (3, H, W) in uint8."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
