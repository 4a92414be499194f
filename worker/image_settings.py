"""How pictures are had, as the settings say: for the worker, and for a command with one picture."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from worker.cache import Cache, CacheLimits, RedisCache
from worker.decode import DecodeLimits, Decoder
from worker.errors import SettingsError
from worker.fetch import FetchLimits, ImageFetcher
from worker.hosts import HostLimits
from worker.image_cache import ImageCache
from worker.image_directory import ImageDirectory
from worker.images import ImageSource, ImageSourceConfig
from worker.memory_cache import MemoryCache
from worker.metrics import Metrics
from worker.post_tagger import LoadedTagger
from worker.redis_client import WrongUrl, make_client
from worker.settings import ImagesTable, RedisTable, Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster


def make_fetcher(images: ImagesTable, metrics: Metrics) -> ImageFetcher:
    """What fetches pictures. Raises `SettingsError`."""
    return ImageFetcher(fetch_limits(images), on_event=lambda event: metrics.host_events.labels(event).inc())


@asynccontextmanager
async def image_source(
    settings: Settings, fetcher: ImageFetcher, cache: Cache, marks: Cache, tagger: LoadedTagger
) -> AsyncIterator[ImageSource]:
    """Pictures for `tagger`; what is under way at the end is given up. `marks` keeps which posts are deleted."""
    images = settings.images
    limits = DecodeLimits(processes=min(images.decode_processes, os.cpu_count() or 1))
    kept = ImageCache(
        cache,
        tagger.tower_digest,
        tagger.feature_shape,
        marks=marks,
        limits_digest=f"{images.max_image_bytes}-{limits.max_pixels}",
        read_seconds=settings.redis.timeout_seconds,
    )
    directory = ImageDirectory(images.directory, max_image_bytes=images.max_image_bytes) if images.directory else None
    config = ImageSourceConfig(wait_seconds=images.wait_seconds, fetches=images.fetch)
    async with fetcher, Decoder(limits) as decoder:
        source = ImageSource(fetcher, decoder, kept, directory, config)
        try:
            yield source
        finally:
            await source.close()


def fetch_limits(images: ImagesTable) -> FetchLimits:
    """How long, how much and from where. Raises `SettingsError`."""
    try:
        return FetchLimits(
            total_seconds=images.total_seconds,
            least_rate=images.least_rate,
            max_image_bytes=images.max_image_bytes,
            hosts=HostLimits(per_host=images.per_host, overall=images.overall),
            contact=images.contact,
            proxy=None if images.proxy is None else images.proxy.get_secret_value(),
            allow_origins=images.allow_origins,
        )
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: images.{error}") from None


def make_cache(settings: Settings, metrics: Metrics) -> Cache:
    """Redis where one is set, else memory. Raises `SettingsError`."""
    redis = settings.redis
    if redis.url is None:
        return MemoryCache(max_bytes=settings.images.memory_cache_bytes)
    with _url_told(redis):
        return RedisCache(
            redis.url.get_secret_value(),
            _cache_limits(redis),
            is_cluster=redis.cluster,
            sentinels=redis.sentinels,
            on_event=_count(metrics),
        )


def make_marks(redis: RedisTable, cache: Cache, metrics: Metrics) -> Cache:
    """What keeps the marks of deletes: a Redis of their own where one is set, else `cache`. Raises `SettingsError`."""
    if redis.deletes_url is None:
        return cache
    with _url_told(redis, "redis.deletes_url"):
        return RedisCache(redis.deletes_url.get_secret_value(), _cache_limits(redis), on_event=_count(metrics))


def _cache_limits(redis: RedisTable) -> CacheLimits:
    return CacheLimits(timeout_seconds=redis.timeout_seconds, max_value_bytes=redis.max_value_bytes)


def _count(metrics: Metrics) -> Callable[[str], None]:
    return lambda event: metrics.cache_events.labels(event).inc()


def redis_client_of(redis: RedisTable) -> "Redis | RedisCluster | None":
    """A client of the settings' Redis, beside the cache's; None where there is none. Raises `SettingsError`."""
    if redis.url is None:
        return None
    with _url_told(redis):
        return make_client(
            redis.url.get_secret_value(),
            is_cluster=redis.cluster,
            sentinels=redis.sentinels,
            timeout_seconds=redis.timeout_seconds,
            max_connections=1,
        )


@contextmanager
def _url_told(redis: RedisTable, setting: str = "redis.url") -> Iterator[None]:
    try:
        yield
    except WrongUrl as error:
        raise SettingsError(f"the settings are wrong: {setting} {error}") from None
    except (ValueError, TypeError):
        # Without the cause, which quotes the URL and the password in it.
        raise SettingsError(_wrong_url(redis, setting)) from None


def _wrong_url(redis: RedisTable, setting: str) -> str:
    if redis.sentinels and setting == "redis.url":
        return (
            "redis.url or redis.sentinels is wrong: with sentinels, such as host1:26379,host2:26379, the URL's host "
            "is the name of the service that they watch, as in redis://user:password@mymaster/0"
        )
    return (
        f"{setting} is no URL of a Redis, such as redis://user:password@host:6379/0 (rediss:// for TLS); "
        "in a password, write / ? # @ and : as %2F %3F %23 %40 and %3A"
    )
