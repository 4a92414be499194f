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
    """The uses of pictures, in a cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def note_post(self, post_id: str, url_digest: str) -> str | None:
        """That this post shows what is at this URL, and no more what is at the one that is given back, if any is.

        Raises `CacheUnsure`.
        """
        listed = f"nametag:posts-of:{url_digest}", _digest(post_id)
        before = _text(await self._cache.keep_listed(_post_key(post_id), url_digest.encode(), listed, USES_SECONDS))
        return None if before == url_digest else before

    async def note_pixels(self, url_digest: str, pixels_digest: str) -> str | None:
        """That these pixels are at this URL; the digest of those that were there before, and are at no other now.

        Raises `CacheUnsure`.
        """
        listed = f"nametag:urls-of:{pixels_digest}", url_digest
        before = _text(
            await self._cache.keep_listed(_shown_key(url_digest), pixels_digest.encode(), listed, USES_SECONDS)
        )
        if before in (None, pixels_digest):
            return None
        return None if await self._cache.remove(f"nametag:urls-of:{before}", url_digest) else before

    async def url_of(self, post_id: str) -> str | None:
        """The digest of the URL whose picture this post shows; None where none is known. Raises `CacheUnsure`."""
        return _text(await self._cache.recall(_post_key(post_id)))

    async def take_post(self, post_id: str, url_digest: str) -> bool:
        """That the post shows it no more; whether no other does. Raises `CacheUnsure`."""
        return not await self._cache.remove(f"nametag:posts-of:{url_digest}", _digest(post_id))

    async def take_url(self, url_digest: str) -> str | None:
        """The digest of the pixels that were at this URL, and are at no other; None for none. Raises `CacheUnsure`."""
        pixels_digest = _text(await self._cache.recall(_shown_key(url_digest)))
        if pixels_digest is None:
            return None
        num_left = await self._cache.remove(f"nametag:urls-of:{pixels_digest}", url_digest)
        return None if num_left else pixels_digest

    async def forget_url(self, url_digest: str) -> None:
        """Drop what is known of the URL. Raises `CacheUnsure`."""
        await self._cache.delete([_shown_key(url_digest)])

    async def forget_post(self, post_id: str) -> None:
        """Drop what is known of the post. Raises `CacheUnsure`."""
        await self._cache.delete([_post_key(post_id)])


def _post_key(post_id: str) -> str:
    return f"nametag:post:{_digest(post_id)}"


def _shown_key(url_digest: str) -> str:
    return f"nametag:shown:{url_digest}"


def _digest(post_id: str) -> str:
    return hashlib.sha256(post_id.encode("utf-8", "replace")).hexdigest()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("ascii", "replace")
