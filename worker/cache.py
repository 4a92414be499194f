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
from functools import partial
from typing import Protocol

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, RedisError

from worker.memory_cache import MAX_MEMBERS, MemoryCache
from worker.redis_client import code_of, make_client

log = logging.getLogger("nametag.cache")

DIGEST_BYTES = 16
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
        self._open_until = 0.0
        self._is_bypassed = False
        self._is_refused = False
        self._said: str | None = None
        """The last error code that Redis told, since it last did what it was asked."""
        self._spare = MemoryCache(max_bytes=limits.spare_bytes)
        self._turns = asyncio.Semaphore(limits.max_connections)
        self._insisting = asyncio.Semaphore(max(1, limits.max_connections // 2))
        self._redis = make_client(
            url,
            is_cluster=is_cluster,
            sentinels=sentinels,
            timeout_seconds=limits.timeout_seconds,
            max_connections=limits.max_connections,
        )

    async def get(self, key: str, deadline: float | None = None) -> bytes | None:
        """The value, None on a miss, on trouble, or where it isn't what was put there."""
        framed = await self._call(lambda: self._redis.get(key), deadline)
        if not isinstance(framed, bytes):
            self._on_event("miss")
            return await self._spare.get(key)
        digest, value = framed[:DIGEST_BYTES], framed[DIGEST_BYTES:]
        if digest != _digest(key, value):
            self._on_event("corrupt")
            return None
        self._on_event("hit")
        return value

    async def set(self, key: str, value: bytes, ttl_seconds: float) -> None:
        """Keep `value`, unless it is too large or Redis is in trouble."""
        if len(value) > self._limits.max_value_bytes:
            self._on_event("too_large")
            return
        milliseconds = self._milliseconds(ttl_seconds)
        if not await self._call(lambda: self._redis.set(key, _digest(key, value) + value, px=milliseconds)):
            await self._spare.set(key, value, ttl_seconds)

    async def recall(self, key: str) -> bytes | None:
        """The value, also where only memory has it; None where neither has."""
        return await self._recalled(key, await self._insist(lambda: self._redis.get(key)))

    async def recall_all(self, keys: Sequence[str]) -> list[bytes | CacheUnsure | None]:
        """The same of each key, in one question."""

        def ask() -> object:
            pipeline = self._redis.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            return pipeline.execute()

        replies = await self._insist(ask)
        if not isinstance(replies, list) or len(replies) != len(keys):
            raise CacheUnsure
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
        if framed[:DIGEST_BYTES] != _digest(key, framed[DIGEST_BYTES:]):
            # There is something, and what it was can't be known.
            self._on_event("corrupt")
            raise CacheUnsure
        return framed[DIGEST_BYTES:]

    async def keep(self, key: str, value: bytes, ttl_seconds: float) -> bytes | None:
        """Keep `value`, in memory at least; what was there before, here or in Redis."""
        milliseconds = self._milliseconds(ttl_seconds)

        def put() -> object:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(key)
            pipeline.set(key, _digest(key, value) + value, px=milliseconds)
            return pipeline.execute()

        before = await self._spare.keep(key, value, ttl_seconds)
        reply = await self._insist(put)
        await self._spare.delete([key])
        if before is None and isinstance(reply, list) and isinstance(reply[0], bytes):
            framed = reply[0]
            before = framed[DIGEST_BYTES:] if framed[:DIGEST_BYTES] == _digest(key, framed[DIGEST_BYTES:]) else None
        return before

    async def delete(self, keys: Sequence[str]) -> None:
        """Drop what is kept under `keys`, here and in Redis."""
        await self._spare.delete(keys)
        # One by one: the keys of one command would have to be on one node of a cluster.
        for key in keys:
            await self._insist(partial(self._redis.delete, key))

    async def add(self, key: str, member: str, ttl_seconds: float) -> None:
        """Put `member` into the set `key`, in memory at least."""
        now = time.time()

        def put() -> object:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zadd(key, {member: now + ttl_seconds})
            pipeline.zremrangebyrank(key, 0, -1 - MAX_MEMBERS)
            pipeline.pexpire(key, self._milliseconds(ttl_seconds))
            return pipeline.execute()

        await self._spare.add(key, member, ttl_seconds)
        await self._insist(put)
        await self._spare.remove(key, member)

    async def remove(self, key: str, member: str) -> int:
        """Take `member` out of the set `key`, here and in Redis; how many are left in both."""
        now = time.time()

        def take() -> object:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zrem(key, member)
            pipeline.zremrangebyscore(key, 0, now)
            pipeline.zcard(key)
            return pipeline.execute()

        in_memory = await self._spare.remove(key, member)
        reply = await self._insist(take)
        if not isinstance(reply, list) or not isinstance(reply[-1], int):
            raise CacheUnsure
        return reply[-1] + in_memory

    async def _insist(self, command: Callable[[], object]) -> object:
        """Redis's answer, for which more than one try is worth it. Raises `CacheUnsure`."""

        async def answer() -> tuple[object]:
            # A miss is an answer, too.
            return (await command(),)  # type: ignore[misc]

        # A few at a time, or a burst of them would wait for its turns until its time is over.
        async with self._insisting:
            for pause in INSIST_PAUSES:
                await asyncio.sleep(pause)
                if self._bypasses():
                    break
                if (found := await self._call(answer)) is not None:
                    return found[0]  # type: ignore[index]
        raise CacheUnsure

    def _milliseconds(self, ttl_seconds: float) -> int:
        jitter = 1 + random.uniform(-self._limits.ttl_jitter, self._limits.ttl_jitter)
        return max(1, round(ttl_seconds * jitter * 1000))

    async def close(self) -> None:
        """Close the connections, as far as Redis has a hand for it."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(self._limits.timeout_seconds):
                await self._redis.aclose()

    async def _call(self, command: Callable[[], object], deadline: float | None = None) -> object:
        """Redis's answer, or None. `deadline`, in asyncio's time, may cut our own short."""
        if self._bypasses():
            return None
        own = asyncio.get_running_loop().time() + self._limits.timeout_seconds
        by = own if deadline is None else min(deadline, own)
        try:
            async with asyncio.timeout_at(by):
                await self._turns.acquire()
        except TimeoutError:
            self._on_event("late")
            return None
        try:
            return None if self._bypasses() else await self._answer(command, by)
        finally:
            self._turns.release()

    async def _answer(self, command: Callable[[], object], by: float) -> object:
        left = by - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(by):
                reply = await command()  # type: ignore[misc]
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
            if isinstance(error, TimeoutError) and left < self._limits.timeout_seconds / 2:
                # Many readers at once, or one that had waited before: load, and no trouble with Redis.
                self._on_event("late")
            else:
                self._fail(error)
            return None
        self._num_failures, self._said = 0, None
        if self._is_bypassed:
            self._is_bypassed = False
            log.info("cache_back")
        return reply

    def _bypasses(self) -> bool:
        if time.monotonic() >= self._open_until:
            return False
        self._on_event("bypassed")
        return True

    def _fail(self, error: Exception) -> None:
        self._on_event("error")
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
