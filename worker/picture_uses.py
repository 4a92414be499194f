"""Which posts show which pictures, so that the last of them that is deleted takes its picture along.

    post ──▶ URL ──▶ pixels        nametag:post:…, nametag:shown:…
    post ◀── URL ◀── pixels        nametag:posts-of:…, nametag:urls-of:… (sets)

All names are digests. They are kept for longer than what they lead to.
"""

import hashlib

from worker.cache import Cache

USES_SECONDS = 9 * 86_400.0
"""Longer than features, whatever the cache adds to their week."""


class PictureUses:
    """The uses of pictures, in a cache. A cache in trouble costs the knowledge, and raises nothing."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def note_post(self, post_id: str, url_digest: str) -> None:
        """That this post shows what is at this URL."""
        await self._cache.set(_post_key(post_id), url_digest.encode(), USES_SECONDS)
        await self._cache.add(f"nametag:posts-of:{url_digest}", _digest(post_id), USES_SECONDS)

    async def note_pixels(self, url_digest: str, pixels_digest: str) -> None:
        """That these pixels are at this URL."""
        await self._cache.set(_shown_key(url_digest), pixels_digest.encode(), USES_SECONDS)
        await self._cache.add(f"nametag:urls-of:{pixels_digest}", url_digest, USES_SECONDS)

    async def url_of(self, post_id: str) -> str | None:
        """The digest of the URL whose picture this post shows; None where none is known."""
        return _text(await self._cache.get(_post_key(post_id)))

    async def take_post(self, post_id: str, url_digest: str) -> bool | None:
        """That the post shows it no more: whether no other does; None where that isn't known."""
        num_left = await self._cache.remove(f"nametag:posts-of:{url_digest}", _digest(post_id))
        return None if num_left is None else num_left == 0

    async def take_url(self, url_digest: str) -> str | None:
        """The digest of the pixels that were at this URL, and are at no other; None where there are none such."""
        pixels_digest = _text(await self._cache.get(_shown_key(url_digest)))
        if pixels_digest is None:
            return None
        num_left = await self._cache.remove(f"nametag:urls-of:{pixels_digest}", url_digest)
        return pixels_digest if num_left == 0 else None

    async def forget_url(self, url_digest: str) -> bool:
        """Drop what is known of the URL; whether that is sure."""
        return await self._cache.delete([_shown_key(url_digest)])

    async def forget_post(self, post_id: str, *, is_marked: bool) -> bool:
        """Drop what is known of the post, and remember with `is_marked` that it is deleted; whether it is dropped."""
        if is_marked:
            await self._cache.set(_deleted_key(post_id), b"1", USES_SECONDS)
        return await self._cache.delete([_post_key(post_id)])

    async def is_deleted(self, post_id: str, deadline: float) -> bool:
        """Whether it was marked as deleted; False where the cache doesn't say by `deadline`, in asyncio's time."""
        return await self._cache.get(_deleted_key(post_id), deadline) is not None


def _post_key(post_id: str) -> str:
    return f"nametag:post:{_digest(post_id)}"


def _shown_key(url_digest: str) -> str:
    return f"nametag:shown:{url_digest}"


def _deleted_key(post_id: str) -> str:
    return f"nametag:deleted:{_digest(post_id)}"


def _digest(post_id: str) -> str:
    return hashlib.sha256(post_id.encode()).hexdigest()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii", "replace")
