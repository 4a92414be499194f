"""The cache of pictures and features: in Redis, or in memory under the same contract (worker/memory_cache.py).

Redis down costs a metric, never a post: every call has a deadline, and a breaker bypasses a Redis that
fails. A value is framed with a digest of key and value: a foreign, cut or altered one is a miss.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError

from worker.memory_cache import MAX_MEMBERS, MemoryCache
from worker.redis_client import code_of, make_client
from worker.redis_together import Command, NoTurn, Together

log = logging.getLogger("nametag.cache")

DIGEST_BYTES = 16
INSISTING_A_CONNECTION = 4
"""Calls at once for each connection whose time begins with their turn; those of a moment share a question."""
INSIST_PAUSES = (0.0, 0.05, 0.2)
"""Before each try of what is insisted on, in seconds."""

_REFUSALS = (OutOfMemoryError, ReadOnlyError, NoPermissionError)
"""What a Redis answers that is full, a replica, or has been told to."""


class CacheUnsure(Exception):
    """Raised where a cache in trouble can't say what it has, or whether it did what it was asked to."""


class Cache(Protocol):
    """Bytes by key, and sets of names, for a while. `get` and `set` raise nothing for trouble with the cache.

    The others take more time, and raise `CacheUnsure` where that didn't help.
    """

    async def get(self, key: str, deadline: float | None = None) -> bytes | None:
        """The value, None on a miss, or where it can't be had by `deadline`, in asyncio's time."""

    async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep `value` for about `ttl_seconds`."""

    async def recall(self, key: str) -> bytes | None:
        """The value; None where there is none for sure."""

    async def recall_all(self, keys: Sequence[str]) -> Sequence[bytes | CacheUnsure | None]:
        """The value of each key, None for none for sure, an error where there is something that isn't its."""

    async def keep(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """Keep `value` for sure, for about `ttl_seconds`; what was there before, as far as that can be told."""

    async def keep_listed(self, key: str, value: bytes, listed: tuple[str, str], ttl_seconds: float) -> bytes | None:
        """`keep`, and in the same question `add` of `listed`, a set and its member."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Drop what is kept under `keys`."""

    async def add(self, key: str, member: str, ttl_seconds: float) -> None:
        """Put `member` into the set `key` for about `ttl_seconds` from now; of too many the oldest leave it."""

    async def remove(self, key: str, member: str) -> int:
        """Take `member` out of the set `key`; how many are left in it."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """How long Redis may take, waiting for a connection included, and when it is bypassed for a while.

    A value above `max_value_bytes` isn't kept. What Redis didn't take, memory keeps, up to `spare_bytes`: a host
    is not to be asked for the same picture over and over because our cache is away.
    """

    timeout_seconds: float = 0.25
    max_value_bytes: int = 2 * 1024 * 1024
    spare_bytes: int = 32 * 1024 * 1024
    failures_to_open: int = 5
    open_seconds: float = 5.0
    max_connections: int = 8
    ttl_jitter: float = 0.1


class RedisCache:
    """Redis behind a deadline and a breaker. It need not be up, not even at the start.

    Raises ValueError where `url` is none of a Redis, see `worker/redis_client.py`.
    """

    def __init__(
        self,
        url: str,
        limits: CacheLimits,
        *,
        is_cluster: bool = False,
        sentinels: Sequence[str] = (),
        on_event: Callable[[str], None] = lambda _event: None,
    ) -> None:
        self._limits = limits
        self._on_event = on_event
        self._num_failures = 0
        self._failed_with: Exception | None = None
        self._open_until = 0.0
        self._is_bypassed = False
        self._is_refused = False
        self._said: str | None = None
        """The last error code that Redis told, since it last did what it was asked."""
        self._spare = MemoryCache(max_bytes=limits.spare_bytes)
        self._insisting = asyncio.Semaphore(limits.max_connections * INSISTING_A_CONNECTION)
        self._redis = make_client(
            url,
            is_cluster=is_cluster,
            sentinels=sentinels,
            # Ours ends first: it makes allowance for a loop that is late.
            timeout_seconds=2 * limits.timeout_seconds,
            max_connections=limits.max_connections,
        )
        self._together = Together(
            self._redis, num_questions=limits.max_connections, timeout_seconds=limits.timeout_seconds
        )

    async def get(self, key: str, deadline: float | None = None) -> bytes | None:
        """The value, None on a miss, on trouble, or where it isn't what was put there."""
        replies = await self._call([("GET", key)], deadline)
        framed = replies[0] if replies else None
        if not isinstance(framed, bytes):
            self._on_event("miss")
            return await self._spare.get(key)
        value = _unframed(key, framed)
        if value is None:
            self._on_event("corrupt")
            return None
        self._on_event("hit")
        return value

    async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep `value`, unless it is too large or Redis is in trouble."""
        if len(value) > self._limits.max_value_bytes:
            self._on_event("too_large")
            return
        replies = await self._call([self._put(key, value, ttl_seconds)])
        if not replies or not replies[0]:
            await self._spare.set(key, value, ttl_seconds)

    async def recall(self, key: str) -> bytes | None:
        """The value, also where only memory has it; None where neither has."""
        (framed,) = await self._insist([("GET", key)])
        return await self._recalled(key, framed)

    async def recall_all(self, keys: Sequence[str]) -> list[bytes | CacheUnsure | None]:
        """The same of each key, in one question."""
        replies = await self._insist([("GET", key) for key in keys]) if keys else []
        found: list[bytes | CacheUnsure | None] = []
        for key, reply in zip(keys, replies, strict=True):
            try:
                found.append(await self._recalled(key, reply))
            except CacheUnsure as error:
                found.append(error)
        return found

    async def _recalled(self, key: str, framed: object) -> bytes | None:
        if not isinstance(framed, bytes):
            return await self._spare.get(key)
        value = _unframed(key, framed)
        if value is None:
            # There is something, and what it was can't be known.
            self._on_event("corrupt")
            raise CacheUnsure
        return value

    async def keep(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """Keep `value`, in memory at least; what was there before, here or in Redis."""
        before = await self._spare.keep(key, value, ttl_seconds)
        framed, *_ = await self._insist([("GET", key), self._put(key, value, ttl_seconds)])
        await self._spare.delete([key])
        return _unframed(key, framed) if before is None else before

    async def keep_listed(self, key: str, value: bytes, listed: tuple[str, str], ttl_seconds: float) -> bytes | None:
        """Both, in memory at least, and in one question."""
        before = await self._spare.keep(key, value, ttl_seconds)
        await self._spare.add(*listed, ttl_seconds)
        commands = [("GET", key), self._put(key, value, ttl_seconds), *self._listing(*listed, ttl_seconds)]
        framed, *_ = await self._insist(commands)
        await self._spare.delete([key])
        await self._spare.remove(*listed)
        return _unframed(key, framed) if before is None else before

    async def delete(self, keys: Sequence[str]) -> None:
        """Drop what is kept under `keys`, here and in Redis."""
        await self._spare.delete(keys)
        # One by one: the keys of one command would have to be on one node of a cluster.
        for key in keys:
            await self._insist([("DEL", key)])

    async def add(self, key: str, member: str, ttl_seconds: float) -> None:
        """Put `member` into the set `key`, in memory at least."""
        await self._spare.add(key, member, ttl_seconds)
        await self._insist(self._listing(key, member, ttl_seconds))
        await self._spare.remove(key, member)

    async def remove(self, key: str, member: str) -> int:
        """Take `member` out of the set `key`, here and in Redis; how many are left in both."""
        in_memory = await self._spare.remove(key, member)
        *_, num_left = await self._insist(
            [("ZREM", key, member), ("ZREMRANGEBYSCORE", key, 0, time.time()), ("ZCARD", key)]
        )
        if not isinstance(num_left, int):
            raise CacheUnsure
        return num_left + in_memory

    def _put(self, key: str, value: bytes, ttl_seconds: float) -> Command:
        return "SET", key, _digest(key, value) + value, "PX", self._milliseconds(ttl_seconds)

    def _listing(self, key: str, member: str, ttl_seconds: float) -> list[Command]:
        return [
            ("ZADD", key, time.time() + ttl_seconds, member),
            ("ZREMRANGEBYRANK", key, 0, -1 - MAX_MEMBERS),
            ("PEXPIRE", key, self._milliseconds(ttl_seconds)),
        ]

    async def _insist(self, commands: Sequence[Command]) -> list[object]:
        """Redis's replies, for which more than one try is worth it. Raises `CacheUnsure`."""
        # A few at a time, or a burst of them would wait for its turns until its time is over.
        async with self._insisting:
            for pause in INSIST_PAUSES:
                await asyncio.sleep(pause)
                if self._bypasses():
                    break
                if (replies := await self._call(commands)) is not None:
                    return replies
        raise CacheUnsure

    def _milliseconds(self, ttl_seconds: float) -> int:
        jitter = 1 + random.uniform(-self._limits.ttl_jitter, self._limits.ttl_jitter)
        return max(1, round(ttl_seconds * jitter * 1000))

    async def close(self) -> None:
        """Close the connections, as far as Redis has a hand for it; what is asked afterwards has no turn."""
        await self._together.close()
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._limits.timeout_seconds):
                await self._redis.aclose()

    async def _call(self, commands: Sequence[Command], deadline: float | None = None) -> list[object] | None:
        """Redis's replies, or None. `deadline`, in asyncio's time, may cut our own short."""
        if self._bypasses():
            return None
        try:
            replies = await self._together.ask(*commands, by=deadline)
        except NoTurn:
            self._on_event("late")
            return None
        except _REFUSALS as error:
            # Redis is there, and what it has can still be read.
            self._on_event("refused")
            self._said = code_of(error) or self._said
            if not self._is_refused:
                self._is_refused = True
                log.warning("cache_refuses", extra={"error": type(error).__name__, "said": self._said})
            return None
        except Exception as error:
            # A peer that isn't a Redis has the client raise nearly anything; none of it is worth a post.
            self._fail(error)
            return None
        self._num_failures, self._said, self._failed_with = 0, None, None
        if self._is_bypassed:
            self._is_bypassed = False
            log.info("cache_back")
        return replies

    def _bypasses(self) -> bool:
        if time.monotonic() >= self._open_until:
            return False
        self._on_event("bypassed")
        return True

    def _fail(self, error: Exception) -> None:
        self._on_event("error")
        _forget_frames(error)
        if error is self._failed_with:
            return  # of the same question, which failed once
        self._failed_with = error
        self._said = code_of(error) or self._said
        self._num_failures += 1
        if self._num_failures < self._limits.failures_to_open:
            return
        # Half open afterwards: the next call that fails shuts it again at once.
        self._open_until = time.monotonic() + self._limits.open_seconds
        self._num_failures = self._limits.failures_to_open - 1
        if not self._is_bypassed:
            # Once until it is back, and of the error only the kind: its words may name the URL. What Redis said is
            # told though the last call only timed out, as one does that a client tries again.
            self._is_bypassed = True
            told = {"error": type(error).__name__, "said": self._said, "failures": self._num_failures + 1}
            log.warning("cache_bypassed", extra=told)


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES, key=hashlib.sha256(key.encode()).digest()).digest()


def _forget_frames(error: BaseException | None) -> None:
    """Of an error that is kept for longer than what led to it: megabytes were to be written there."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _unframed(key: str, framed: object) -> bytes | None:
    """The value that was put under `key`; None where this is none."""
    if not isinstance(framed, bytes) or framed[:DIGEST_BYTES] != _digest(key, framed[DIGEST_BYTES:]):
        return None
    return framed[DIGEST_BYTES:]
