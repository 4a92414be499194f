"""What is kept of pictures, and for how long.

Three kinds of entries: a URL's pixel digest or the reason why it can't be had, a URL's bytes, and the
features that one tower has of one picture, which serve every post that shows it. Who shows it is known too
(worker/picture_uses.py), so that a delete takes it along.
"""

import asyncio
import hashlib
import re
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from consumers.image_status import ImageStatus
from worker.cache import Cache, CacheUnsure
from worker.delete_marks import DeleteMarks
from worker.packed_features import pack, unpack
from worker.picture_uses import PictureUses

DAY = 86_400.0
URL_SECONDS = DAY
FEATURES_SECONDS = 7 * DAY
FAILURE_SECONDS = {
    ImageStatus.NOT_FOUND: 600.0,
    ImageStatus.GONE: DAY,
    ImageStatus.FORBIDDEN: 600.0,
    ImageStatus.TOO_LARGE: DAY,
    ImageStatus.TOO_SLOW: 30.0,
    ImageStatus.BAD_IMAGE: 600.0,
    ImageStatus.UNSUPPORTED: DAY,
    ImageStatus.HOST_DOWN: 30.0,
}
"""How long a failure is believed; a blocked address costs nothing to find again, and is not kept."""

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""What may wait to be written; beyond it, what comes isn't kept."""

NOTE_BYTES = 1000
"""What the note of a post or of pixels takes while it waits."""

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a URL: its picture's pixel digest, or why it can't be had."""

    digest: str | None = None
    failure: ImageStatus | None = None


class _Writes:
    """Writes under way, which nobody waits for but at the end; bounded in bytes."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self._num_bytes = 0

    def add(self, writing: Coroutine[None, None, None], num_bytes: int) -> None:
        """Begin to write, unless too much waits already."""
        if self._num_bytes + num_bytes > MAX_WAITING_BYTES:
            writing.close()
            return
        self._num_bytes += num_bytes
        write = asyncio.create_task(writing)
        self.tasks.add(write)
        write.add_done_callback(lambda done: self._written(done, num_bytes))

    def _written(self, write: asyncio.Task[None], num_bytes: int) -> None:
        self.tasks.discard(write)
        self._num_bytes -= num_bytes


class ImageCache:
    """Pictures by URL and features by pixels, of one tower, in a cache of bytes.

    Writes go on beside the posts, which don't wait for them; a look-up's reads share one deadline. A failure is
    believed under the limits of `limits_digest` alone: who allows more wants to know again. `marks` keeps which posts
    are deleted; None for the same cache.
    """

    def __init__(
        self,
        cache: Cache,
        tower_digest: str,
        feature_shape: tuple[int, int],
        *,
        marks: Cache | None = None,
        limits_digest: str = "",
        read_seconds: float = 0.25,
    ) -> None:
        self._cache = cache
        self._tower_digest = tower_digest
        self._shape = feature_shape
        self._limits_digest = limits_digest
        self._read_seconds = read_seconds
        self._uses = PictureUses(cache)
        self._marks = DeleteMarks(cache if marks is None else marks)
        self._writes = _Writes()
        self._towers = {tower_digest}

    @property
    def tower_digest(self) -> str:
        """Whose features these are."""
        return self._tower_digest

    def for_tower(self, tower_digest: str, feature_shape: tuple[int, int]) -> "ImageCache":
        """The same cache for another tower; a delete takes along what either saw."""
        other = ImageCache(
            self._cache,
            tower_digest,
            feature_shape,
            limits_digest=self._limits_digest,
            read_seconds=self._read_seconds,
        )
        other._writes, other._towers, other._marks = self._writes, self._towers, self._marks
        self._towers.add(tower_digest)
        return other

    def reads(self) -> "Reads":
        """The reads of one look-up, which may take `read_seconds` in all."""
        return Reads(self, self._read_seconds)

    async def get(self, key: str, deadline: float) -> bytes | None:
        """What is kept under `key`; None on a miss."""
        return await self._cache.get(key, deadline)

    def keep_failure(self, url: str, status: ImageStatus) -> None:
        """Believe for a while that `url` can't be had."""
        if seconds := FAILURE_SECONDS.get(status):
            self._keep(url_key("seen", url), f"failed:{status}:{self._limits_digest}".encode(), seconds)

    def keep_digest(self, url: str, digest: str) -> None:
        """Know the pixels at `url` again."""
        self._keep(url_key("seen", url), f"pixels:{digest}".encode(), URL_SECONDS)
        self._write(self._note_pixels(url_digest(url), digest))

    def note_post(self, post_id: str, url: str) -> None:
        """Know, until the post is deleted, that it shows what is at `url`, and nothing that it showed before."""
        self._write(self._note_post(post_id, url_digest(url)))

    def keep_bytes(self, url: str, data: bytes) -> None:
        """Save the next fetch of `url`."""
        self._keep(url_key("bytes", url), data, URL_SECONDS)

    def keep_features(self, digest: str, features: np.ndarray) -> None:
        """Save the tower's next look at these pixels: features (49, D), kept as fp16."""
        self._keep(self.features_key(digest), pack(features), FEATURES_SECONDS)

    def features_key(self, digest: str) -> str:
        """Where the features of these pixels are kept; another tower has others."""
        return _features_key(self._tower_digest, digest)

    def read_features(self, packed: bytes) -> np.ndarray | None:
        """Features (49, D) in fp16; None where they are another tower's, or none that a tower gives."""
        return unpack(packed, self._shape)

    def read_seen(self, data: bytes) -> Seen | None:
        """What an entry says of a URL; None for what this release, under these limits, can't use."""
        kind, _, rest = data.decode("ascii", "replace").partition(":")
        if kind == "failed":
            status, _, limits_digest = rest.partition(":")
            is_ours = status in FAILURE_SECONDS and limits_digest == self._limits_digest
            return Seen(failure=ImageStatus(status)) if is_ours else None
        return Seen(digest=rest) if kind == "pixels" and _DIGEST.fullmatch(rest) else None

    async def url_of(self, post_id: str) -> str | None:
        """The digest of the URL of the picture that the post shows, where one is known. Raises `CacheUnsure`."""
        await self._wait_for_writes()
        return await self._uses.url_of(post_id)

    async def forget_post(self, post_id: str, digest: str | None) -> None:
        """Drop what is kept of a deleted post, and of its picture at the URL of this digest if no other post shows it.

        What towers saw that aren't in use here lapses. Raises `CacheUnsure`; the same again finds what is left.
        """
        if digest is not None:
            await self.drop_unused(digest, post_id)
        await self._uses.forget_post(post_id)

    async def drop_unused(self, digest: str, post_id: str = "") -> None:
        """Drop the picture at a URL that no post shows, not counting this one. Raises `CacheUnsure`."""
        await self._wait_for_writes()
        await self._drop_unused(digest, post_id)

    async def _drop_unused(self, digest: str, post_id: str) -> None:
        if not await self._uses.take_post(post_id, digest):
            return
        keys = [f"nametag:seen:{digest}", f"nametag:bytes:{digest}"]
        if pixels := await self._uses.take_url(digest):
            keys += self._all_features(pixels)
        await self._cache.delete(keys)
        # What leads to them goes last, so that a delete that is read once more finds what was left.
        await self._uses.forget_url(digest)

    async def _note_post(self, post_id: str, digest: str) -> None:
        # A use that can't be noted costs its delete: the picture lapses then.
        with suppress(CacheUnsure):
            if before := await self._uses.note_post(post_id, digest):
                # A delete of the post will only lead to what it shows now.
                await self._drop_unused(before, post_id)

    async def _note_pixels(self, digest: str, pixels: str) -> None:
        with suppress(CacheUnsure):
            if before := await self._uses.note_pixels(digest, pixels):
                await self._cache.delete(self._all_features(before))

    def _all_features(self, pixels: str) -> list[str]:
        return [_features_key(tower, pixels) for tower in sorted(self._towers)]

    async def mark_deleted(self, post_id: str) -> None:
        """Remember that the post is deleted for good. Raises `CacheUnsure`."""
        await self._marks.mark(post_id)

    async def is_deleted(self, post_id: str) -> bool:
        """Whether the post was deleted for good. Raises `CacheUnsure`."""
        return await self._marks.is_marked(post_id)

    async def _wait_for_writes(self) -> None:
        """For those under way now: what they write is to be found, and not to come after what is dropped."""
        if tasks := set(self._writes.tasks):
            await asyncio.wait(tasks)

    async def settle(self) -> None:
        """Wait for what is being written, each within the cache's own deadline."""
        while self._writes.tasks:
            await asyncio.wait(self._writes.tasks)

    def _keep(self, key: str, value: bytes, seconds: float) -> None:
        self._write(self._cache.set(key, value, seconds), len(value))

    def _write(self, writing: Coroutine[None, None, None], num_bytes: int = NOTE_BYTES) -> None:
        self._writes.add(writing, num_bytes)


@dataclass(slots=True)
class Reads:
    """Reads that share their time: a slow cache costs a post `seconds_left`, and no more."""

    cache: ImageCache
    seconds_left: float

    async def seen(self, url: str) -> Seen | None:
        """What is known of `url`; None for nothing, or nothing that this release can read."""
        data = await self._get(url_key("seen", url))
        return None if data is None else self.cache.read_seen(data)

    async def data(self, url: str) -> bytes | None:
        """What was fetched from `url`."""
        return await self._get(url_key("bytes", url))

    async def features(self, digest: str) -> np.ndarray | None:
        """The tower's features (49, D) of these pixels, in fp16."""
        packed = await self._get(self.cache.features_key(digest))
        return None if packed is None else self.cache.read_features(packed)

    async def _get(self, key: str) -> "bytes | None":
        if self.seconds_left <= 0:
            return None
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            return await self.cache.get(key, begun + self.seconds_left)
        finally:
            self.seconds_left -= loop.time() - begun


def _features_key(tower_digest: str, digest: str) -> str:
    return f"nametag:features:{tower_digest}:{digest}"


def url_key(kind: str, url: str) -> str:
    """Where an entry of `kind` about `url` is kept."""
    return f"nametag:{kind}:{url_digest(url)}"


def url_digest(url: str) -> str:
    """SHA-256 of `url`, in hexadecimal."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
