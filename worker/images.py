"""A post's picture: its features from the cache, else its pixels, from a directory, the cache or the network."""

import asyncio
import logging
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consumers.image_status import ImageStatus
from consumers.posts import PostImage
from worker.cache import CacheUnsure
from worker.decode import Decoder
from worker.decode_line import Pixels
from worker.errors import ImageError, NothingLearnt
from worker.fetch import ImageFetcher
from worker.image_cache import ImageCache, Reads, url_digest
from worker.image_directory import ImageDirectory, LocalImage

log = logging.getLogger("nametag.images")

MAX_FLIGHTS = 4096
"""Look-ups under way, those included whose posts have gone on without them."""

MAX_READING = 16
"""Look-ups that ask the cache at once. A burst's others wait before their time for it begins: with all of them at it,
most would be late, and known pictures be fetched and looked at again just when there is most to do."""


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


Found = FoundFeatures | FoundPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSourceConfig:
    """How long a post waits for its picture, whatever holds it up, and whether the network is asked at all."""

    wait_seconds: float = 6.0
    fetches: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where a picture is, and the name under which what is seen there is kept."""

    name: str
    file: LocalImage | None = None


class ImageSource:
    """Looks pictures up for one tower; one look-up for all that wait for the same picture."""

    def __init__(
        self,
        fetcher: ImageFetcher,
        decoder: Decoder,
        cache: ImageCache,
        directory: ImageDirectory | None = None,
        config: ImageSourceConfig | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._decoder = decoder
        self._cache = cache
        self._directory = directory
        self._config = config or ImageSourceConfig()
        self._flights: dict[tuple[str, str], asyncio.Task[Found]] = {}
        """By tower and origin; those of all towers, for `for_tower`'s sources share them."""
        self._sweeps: set[asyncio.Task[None]] = set()
        self._reading = asyncio.Semaphore(MAX_READING)

    def for_tower(self, tower_digest: str, feature_shape: tuple[int, int]) -> "ImageSource":
        """The same pictures as another tower sees them: one bound on look-ups, and deletes reach both."""
        cache = self._cache.for_tower(tower_digest, feature_shape)
        other = ImageSource(self._fetcher, self._decoder, cache, self._directory, self._config)
        other._flights, other._sweeps, other._reading = self._flights, self._sweeps, self._reading
        return other

    @property
    def num_under_way(self) -> int:
        """Pictures that are being looked up, those included whose posts have gone on without."""
        return len(self._flights)

    async def look_up(self, image: PostImage, post_id: str | None = None) -> Found:
        """The post's picture. Raises `ImageError` with the status that the event will have.

        That is `late` at the end of the wait; the picture is fetched all the same, for the posts that follow. What is
        kept of it is dropped when the last post is forgotten that showed it.
        """
        try:
            async with asyncio.timeout(self._config.wait_seconds):
                origin = await self._origin(image)
                if post_id is not None:
                    self._cache.note_post(post_id, origin.name)
                flight = self._flight(origin)
                # A waiter that gives up must not take the flight from the others.
                return await asyncio.shield(flight)
        except TimeoutError as error:
            raise NothingLearnt(ImageStatus.LATE, f"not there within {self._config.wait_seconds:g} s") from error

    def remember(self, digest: str, features: np.ndarray) -> None:
        """Keep the features (49, D) that the tower has of the picture with these pixels."""
        self._cache.keep_features(digest, features)

    async def forget(self, post_id: str, *, is_final: bool) -> bool:
        """Drop what is kept of a deleted post, and of its picture where no other post shows it.

        `is_final`: remember that it is deleted. False where it isn't sure that all is gone; it lapses in nine days.
        """
        # First: what comes late from here on is found to be.
        is_marked = not is_final or await self._mark_deleted(post_id)
        try:
            digest = await self._cache.url_of(post_id)
            late = (
                [flight for (_, name), flight in self._flights.items() if digest == url_digest(name)] if digest else []
            )
            await self._cache.forget_post(post_id, digest)
        except CacheUnsure:
            return False
        if digest and late:
            # What is on its way is kept when it comes.
            sweep = asyncio.create_task(self._sweep(late, digest))
            self._sweeps.add(sweep)
            sweep.add_done_callback(self._sweeps.discard)
        return is_marked

    async def is_deleted(self, post_id: str) -> bool:
        """Whether the post was forgotten for good, here or by another worker of its cache. Raises `CacheUnsure`."""
        return await self._cache.is_deleted(post_id)

    async def close(self) -> None:
        """Give up what is under way, and wait for what is being written."""
        for flight in list(self._flights.values()):
            flight.cancel()
        if self._sweeps:
            await asyncio.wait(self._sweeps)
        await self._cache.settle()

    async def _mark_deleted(self, post_id: str) -> bool:
        try:
            await self._cache.mark_deleted(post_id)
        except CacheUnsure:
            # Its picture can go all the same: the marks may have a Redis of their own, which is full or away.
            return False
        return True

    async def _sweep(self, flights: list[asyncio.Task[Found]], digest: str) -> None:
        await asyncio.wait(flights)
        with suppress(CacheUnsure):
            await self._cache.drop_unused(digest)

    async def _origin(self, image: PostImage) -> _Origin:
        if self._directory is not None and (file := await self._directory.find(image)) is not None:
            return _Origin(name=file.name, file=file)
        if not self._config.fetches:
            raise ImageError(ImageStatus.NOT_FOUND, "no file of images.directory, and images.fetch is off")
        url = image.url.partition("#")[0]
        # Before the cache is asked: what was fetched under other settings may be forbidden now.
        self._fetcher.check(url)
        return _Origin(name=url)

    def _flight(self, origin: _Origin) -> asyncio.Task[Found]:
        key = self._cache.tower_digest, origin.name
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= MAX_FLIGHTS:
                raise NothingLearnt(ImageStatus.LATE, "too many pictures are on their way")
            flight = self._flights[key] = asyncio.create_task(self._look_up(origin))
            flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: tuple[str, str], flight: asyncio.Task[Found]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # whoever waited has it; nobody may be left

    async def _look_up(self, origin: _Origin) -> Found:
        try:
            # What nobody waits for any more has to end, too.
            async with asyncio.timeout(2 * self._config.wait_seconds):
                return await self._look_at(origin)
        except ImageError:
            raise
        except TimeoutError as error:
            raise NothingLearnt(ImageStatus.LATE, "not there in twice the time") from error
        except Exception as error:
            # The border to what strangers send: what nobody thought of costs the picture, and not the worker. Of
            # the error only its kind is told, since its words may quote the URL.
            log.error("image_failed", extra={"error": type(error).__name__, "at": _place(error)})
            raise NothingLearnt(ImageStatus.BAD_IMAGE, f"it can't be used: {type(error).__name__}") from error

    async def _look_at(self, origin: _Origin) -> Found:
        async with self._reading:
            reads = self._cache.reads()
            seen = await reads.seen(origin.name)
            if seen and seen.failure:
                raise ImageError(seen.failure, "it failed a short while ago")
            if seen and seen.digest and (features := await reads.features(seen.digest)) is not None:
                return FoundFeatures(digest=seen.digest, features=features)
        try:
            pixels = await self._pixels(origin, reads)
        except NothingLearnt:
            raise
        except ImageError as error:
            self._cache.keep_failure(origin.name, error.status)
            raise
        self._cache.keep_digest(origin.name, pixels.digest)
        is_new = seen is None or seen.digest != pixels.digest
        # New to this URL, but another may have shown it.
        if is_new and (features := await reads.features(pixels.digest)) is not None:
            return FoundFeatures(digest=pixels.digest, features=features)
        return FoundPixels(digest=pixels.digest, pixels=pixels.values)

    async def _pixels(self, origin: _Origin, reads: Reads) -> Pixels:
        if origin.file is not None:
            return await self._decoder.decode(await origin.file.read())
        if (kept := await reads.data(origin.name)) is not None:
            try:
                return await self._decoder.decode(kept)
            except NothingLearnt:
                raise
            except ImageError:
                pass  # somebody else's bytes, which are no reason to have no picture
        data = await self._fetcher.fetch(origin.name)
        pixels = await self._decoder.decode(data)
        # Only what is a picture is worth a day: an answer that isn't may be another one in a minute.
        self._cache.keep_bytes(origin.name, data)
        return pixels


def _place(error: BaseException) -> str:
    """The function in which `error` was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "unknown"
