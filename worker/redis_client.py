"""A client of one Redis, of a cluster, or of whichever server the sentinels call the master."""

import re
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

SENTINEL_PORT = 26379

_CODE = re.compile("[A-Z]{3,}")

OPTIONS = frozenset({"db", "protocol", "username", "password", "client_name", "health_check_interval"})
"""What may follow the `?` of a URL, beside the options of TLS; the rest would change what an answer is."""


class WrongUrl(ValueError):
    """Raised for a URL that no Redis has. Says what is wrong with it, and quotes nothing of it."""


def make_client(
    url: str, *, is_cluster: bool, sentinels: Sequence[str], timeout_seconds: float, max_connections: int
) -> Redis | RedisCluster:
    """A client that connects when it is first asked; each step of it takes `timeout_seconds` at the most.

    `url` names a server, or one of a cluster's, or, with `sentinels` (host:port), the service that they watch.
    Raises `WrongUrl`, or a ValueError that may quote the URL, where it is no such URL.
    """
    _check(url, is_cluster=is_cluster)
    patience: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
    }
    if is_cluster:
        # The cache has a deadline and a breaker of its own, and an answer a second later is of no use.
        once = Retry(NoBackoff(), 1)
        return RedisCluster.from_url(
            url, retry=once, require_full_coverage=False, max_connections=max_connections, **patience
        )
    if sentinels:
        return _of_sentinels(url, [_address(each) for each in sentinels], max_connections, patience)
    pool = BlockingConnectionPool.from_url(url, max_connections=max_connections, timeout=timeout_seconds, **patience)
    pool.make_connection()  # type: ignore[no-untyped-call] # theirs; it connects to nothing yet, but refuses an option that doesn't fit
    return Redis.from_pool(pool)  # which closes them with it


def code_of(error: BaseException | None) -> str | None:
    """The code that Redis's answer began with, such as DENIED, NOPERM, OOM or MISCONF; None where it gave no answer.

    `error` may be what a client made of it, as that of a cluster does.
    """
    while error is not None:
        if isinstance(error, RedisError):
            code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
            if isinstance(code, str) and _CODE.fullmatch(code):
                return code
        error = error.__cause__ or error.__context__
    return None


def _check(url: str, *, is_cluster: bool) -> None:
    parts = urlsplit(url)
    unknown = [name for name, _ in parse_qsl(parts.query) if name not in OPTIONS and not name.startswith("ssl_")]
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise WrongUrl(f"has an option that isn't known, {unknown[0]!r}; known are {known}, and those of TLS, ssl_…")
    if is_cluster and (parts.scheme == "unix" or parts.path.strip("/0")):
        raise WrongUrl("is that of a cluster, which has neither a socket nor databases other than 0")


def _of_sentinels(
    url: str, sentinels: Sequence[tuple[str, int]], max_connections: int, patience: dict[str, Any]
) -> Redis:
    options: dict[str, Any] = dict(parse_url(url))
    service = options.pop("host", None)
    if not service:
        raise WrongUrl("has no host; with sentinels it is the name of the service that they watch")
    options.pop("port", None)
    options["ssl"] = options.pop("connection_class", None) is not None
    watch: Any = Sentinel(sentinels, sentinel_kwargs=patience, **patience)  # type: ignore[no-untyped-call] # theirs
    return cast("Redis", watch.master_for(service, max_connections=max_connections, **options))


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or host.endswith(":"):  # no port, or an IPv6 address without brackets
        return text.strip("[]"), SENTINEL_PORT
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise WrongUrl(f"can't be used: {text} is no host:port of a sentinel")
    return host.strip("[]"), int(port)
