"""A post's picture: its features from the cache, else its pixels, from the cache or the network.

Three kinds of entries: a URL's pixel digest or the reason why it can't be had, a URL's bytes, and the
features that one tower has of one picture, which serve every post that shows it.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import numpy as np

from consumers.image_status import ImageStatus
from worker.cache import Cache
from worker.decode import Decoder
from worker.errors import ImageError
from worker.fetch import ImageFetcher

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFeatures:
    """A picture that the tower has seen: features (49, D) in fp16."""

    digest: str
    features: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPixels:
    """A picture that the tower has yet to look at: pixels (3, 224, 224) in uint8."""

    digest: str
    pixels: np.ndarray


class ImageSource:
    """Looks pictures up for one tower; one look-up for all that wait for the same URL."""

    def __init__(
        self,
        fetcher: ImageFetcher,
        decoder: Decoder,
        cache: Cache,
        tower_digest: str,
        feature_shape: tuple[int, int],
    ) -> None:
        self._fetcher = fetcher
        self._decoder = decoder
        self._cache = cache
        self._tower_digest = tower_digest
        self._shape = feature_shape
        self._flights: dict[str, asyncio.Task[FoundFeatures | FoundPixels]] = {}

    async def look_up(self, url: str) -> FoundFeatures | FoundPixels:
        """The picture at `url`. Raises `ImageError` with the status that the event will have."""
        flight = self._flights.get(url)
        if flight is None:
            flight = self._flights[url] = asyncio.create_task(self._look_up(url))
            flight.add_done_callback(lambda done: self._land(url, done))
        # A waiter that gives up must not take the flight from the others.
        return await asyncio.shield(flight)

    def _land(self, url: str, flight: asyncio.Task[FoundFeatures | FoundPixels]) -> None:
        self._flights.pop(url, None)
        if not flight.cancelled():
            flight.exception()  # whoever waited has it; nobody may be left

    async def _look_up(self, url: str) -> FoundFeatures | FoundPixels:
        seen = await self._cache.get(_url_key("seen", url))
        if seen is not None:
            kind, _, rest = seen.decode("ascii", "replace").partition(":")
            # A status that another release wrote, and this one doesn't know, is a miss.
            if kind == "failed" and rest in FAILURE_SECONDS:
                raise ImageError(ImageStatus(rest), "it failed a short while ago")
            if kind == "pixels" and (features := await self._features(rest)) is not None:
                return FoundFeatures(digest=rest, features=features)
        try:
            data = await self._bytes(url)
            pixels = await self._decoder.decode(data)
        except ImageError as error:
            if seconds := FAILURE_SECONDS.get(error.status):
                await self._cache.set(_url_key("seen", url), f"failed:{error.status}".encode(), seconds)
            raise
        await self._cache.set(_url_key("seen", url), f"pixels:{pixels.digest}".encode(), URL_SECONDS)
        if (features := await self._features(pixels.digest)) is not None:
            return FoundFeatures(digest=pixels.digest, features=features)
        return FoundPixels(digest=pixels.digest, pixels=pixels.values)

    async def remember(self, digest: str, features: np.ndarray) -> None:
        """Keep the features (49, D) that the tower has of the picture with these pixels."""
        data = np.ascontiguousarray(features, dtype=np.float16).tobytes()
        await self._cache.set(self._features_key(digest), data, FEATURES_SECONDS)

    async def _bytes(self, url: str) -> bytes:
        key = _url_key("bytes", url)
        data = await self._cache.get(key)
        if data is None:
            data = await self._fetcher.fetch(url)
            await self._cache.set(key, data, URL_SECONDS)
        return data

    async def _features(self, digest: str) -> np.ndarray | None:
        data = await self._cache.get(self._features_key(digest))
        if data is None or len(data) != 2 * self._shape[0] * self._shape[1]:
            return None
        return np.frombuffer(data, dtype=np.float16).reshape(self._shape).copy()

    def _features_key(self, digest: str) -> str:
        return f"nametag:features:{self._tower_digest}:{digest}"


def _url_key(kind: str, url: str) -> str:
    return f"nametag:{kind}:{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"
