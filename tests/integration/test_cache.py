"""The same contract for both caches, and what Redis in trouble costs: nothing but a metric."""

import asyncio
import contextlib
import gc
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

import worker.cache
import worker.memory_cache
from worker.cache import Cache, CacheLimits, CacheUnsure, RedisCache, _digest
from worker.memory_cache import ENTRY_BYTES, MemoryCache
from worker.redis_client import WrongUrl

MakeCache = Callable[[], Cache]


@pytest.fixture(params=["memory", "redis"])
def make_cache(request: pytest.FixtureRequest) -> MakeCache:
    """A way to make each kind of cache, inside the loop that uses it."""
    if request.param == "memory":
        return lambda: MemoryCache(max_bytes=1_000_000)
    url = request.getfixturevalue("redis_url")
    return lambda: RedisCache(url, CacheLimits())


def run(make_cache: MakeCache, scenario: Callable[[Cache], Awaitable[None]]) -> None:
    async def whole() -> None:
        cache = make_cache()
        try:
            await scenario(cache)
        finally:
            await cache.close()

    asyncio.run(whole())


def test_what_was_put_is_got(make_cache: MakeCache) -> None:
    """Any bytes, the empty ones too; another key is a miss; a second value replaces the first."""
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        assert await cache.get(key) is None
        for value in (b"", b"\x00\xff" * 1000, b"other"):
            await cache.set(key, value, 60)
            assert await cache.get(key) == value
        assert await cache.get(key + "x") is None

    run(make_cache, scenario)


def test_a_value_has_its_time(make_cache: MakeCache) -> None:
    """Past its time it is a miss."""
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        await cache.set(key, b"x", 0.2)
        assert await cache.get(key) == b"x"
        await asyncio.sleep(0.35)
        assert await cache.get(key) is None

    run(make_cache, scenario)


def test_what_is_deleted_is_gone(make_cache: MakeCache) -> None:
    """Those keys and no others; one that was never there is as good as gone. A miss is sure, too."""
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        for end in "ab":
            assert await cache.keep(key + end, b"y", 60) is None
            assert await cache.keep(key + end, b"x", 60) == b"y"
        await cache.set(key + "c", b"x", 60)
        await cache.delete([key + "a", key + "b", key + "never"])
        assert [await cache.recall(key + end) for end in "abc"] == [None, None, b"x"]
        await cache.delete([])

    run(make_cache, scenario)


def test_many_are_recalled_in_one_question(make_cache: MakeCache) -> None:
    """Each as it would be alone, in their order; none asked, none told."""
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        await cache.keep(key + "a", b"x", 60)
        await cache.keep(key + "c", b"", 60)
        assert await cache.recall_all([key + end for end in "abca"]) == [b"x", None, b"", b"x"]
        assert await cache.recall_all([]) == []

    run(make_cache, scenario)


def test_a_set_knows_how_many_are_left(make_cache: MakeCache) -> None:
    """Members count once, each for its own time; what isn't in it can be taken out; an empty one is as none."""
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        assert await cache.remove(key, "a") == 0
        for member in "abba":
            await cache.add(key, member, 0.5)
        assert await cache.remove(key, "z") == 2
        await cache.add(key, "c", 60)
        await cache.add(key, "d", 60)
        assert await cache.remove(key, "a") == 3
        await asyncio.sleep(0.6)
        # The set is as young as its last member, and the others have left it.
        assert [await cache.remove(key, member) for member in "zcd"] == [2, 1, 0]
        await cache.add(key, "e", 0.1)
        await asyncio.sleep(0.2)
        assert await cache.remove(key, "z") == 0

    run(make_cache, scenario)


def test_a_set_is_bounded(make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest leave it: a picture that so many show costs a little work when it is dropped too early."""
    for module in (worker.cache, worker.memory_cache):
        monkeypatch.setattr(module, "MAX_MEMBERS", 3)
    key = uuid4().hex

    async def scenario(cache: Cache) -> None:
        for number in range(6):
            await cache.add(key, str(number), 60)
        assert await cache.remove(key, "0") == 3
        assert await cache.remove(key, "5") == 2

    run(make_cache, scenario)


def test_trouble_is_not_taken_for_a_miss(redis_url: str) -> None:
    """While Redis is away nothing is sure; what memory kept meanwhile counts when it is back."""
    key = uuid4().hex

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits())
        await cache.add(key, "a", 60)
        cache._open_until = time.monotonic() + 60
        for call in (
            cache.add(key, "b", 60), cache.remove(key, "c"), cache.delete([key + "x"]), cache.recall(key + "x"),
            cache.recall_all([key]), cache.keep(key + "kept", b"x", 60),
        ):  # fmt: skip
            with pytest.raises(CacheUnsure):
                await call
        cache._open_until = 0.0
        assert await cache.recall(key + "kept") == b"x"
        assert [await cache.remove(key, member) for member in "ab"] == [1, 0]
        await cache.close()

    asyncio.run(scenario())


def test_what_is_corrupt_is_not_taken_for_a_miss(redis_url: str) -> None:
    """There was something, so that nobody may say that all of it is gone."""
    key = uuid4().hex
    Redis.from_url(redis_url).set(key, b"somebody else's")

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits())
        with pytest.raises(CacheUnsure):
            await cache.recall(key)
        corrupt, missing = await cache.recall_all([key, key + "none"])
        assert isinstance(corrupt, CacheUnsure)
        assert missing is None
        await cache.close()

    asyncio.run(scenario())


def test_a_burst_is_sure_in_the_end(redis_url: str) -> None:
    """A thousand at once wait for their turns, and not until their time is over."""
    key = uuid4().hex

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits())
        await asyncio.gather(*(cache.keep(f"{key}{n}", b"x", 60) for n in range(1024)))
        await asyncio.gather(*(cache.add(key, str(n), 60) for n in range(1024)))
        assert cache._spare._values == {}
        assert await asyncio.gather(*(cache.recall(f"{key}{n}") for n in range(1024))) == [b"x"] * 1024
        assert min(await asyncio.gather(*(cache.remove(key, str(n)) for n in range(1024)))) == 0
        await asyncio.gather(*(cache.delete([f"{key}{n}"]) for n in range(1024)))
        await cache.close()

    asyncio.run(scenario())


def test_memory_is_bounded() -> None:
    """The least recently used make room; one larger than all is not kept."""

    async def scenario() -> None:
        # Many entries are hardly more than their keys: what an entry itself takes counts too.
        cache = MemoryCache(max_bytes=3 * (ENTRY_BYTES + 11))
        for name in "abc":
            await cache.set(name, b"x" * 10, 60)
        await cache.get("a")
        await cache.set("d", b"x" * 10, 60)
        assert [await cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
        await cache.set("e", b"x" * (3 * ENTRY_BYTES + 33), 60)
        assert await cache.get("e") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", [b"", b"short", b"\x00" * 200])
def test_a_foreign_or_damaged_value_is_a_miss(redis_url: str, damage: bytes) -> None:
    """A value that isn't what was put under this key is noticed, and counted."""
    events: list[str] = []
    keys = uuid4().hex, uuid4().hex
    direct = Redis.from_url(redis_url)

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits(), on_event=events.append)
        await cache.set(keys[0], b"value", 60)
        framed = direct.get(keys[0])
        assert isinstance(framed, bytes)
        direct.set(keys[1], framed)  # another key's reply
        assert await cache.get(keys[1]) is None
        direct.set(keys[0], damage or framed[:-1])
        assert await cache.get(keys[0]) is None
        await cache.close()

    asyncio.run(scenario())
    assert events == ["corrupt", "corrupt"]
    direct.close()


def test_redis_down_costs_a_metric() -> None:
    """Nobody listens: misses, no exception, and after a few failures no more waiting."""
    events: list[str] = []

    async def scenario() -> float:
        limits = CacheLimits(timeout_seconds=0.1, failures_to_open=3)
        cache = RedisCache("redis://127.0.0.1:9/0", limits, on_event=events.append)
        for _ in range(3):
            assert await cache.get("k") is None
        start = time.perf_counter()
        for _ in range(100):
            await cache.set("k", b"v", 60)
        await cache.close()
        return time.perf_counter() - start

    assert asyncio.run(scenario()) < 0.1
    assert events.count("error") == 3
    assert events.count("bypassed") == 100


def test_trouble_and_its_end_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line when Redis is bypassed, however long; one when it is back; no password in either."""

    async def scenario() -> None:
        limits = CacheLimits(timeout_seconds=0.1, failures_to_open=3, open_seconds=0.05)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        cache = RedisCache(f"redis://:secret@127.0.0.1:{port}/0?protocol=2", limits)
        for _ in range(6):
            await cache.get("k")
            await asyncio.sleep(0.03)
        server = await asyncio.start_server(say_ok, "127.0.0.1", port)
        await asyncio.sleep(0.06)
        for _ in range(3):
            await cache.set("k", b"v", 60)
        await cache.close()
        server.close()

    with caplog.at_level(logging.INFO, "nametag.cache"):
        asyncio.run(scenario())
    told = [record for record in caplog.records if record.name == "nametag.cache"]
    assert [record.getMessage() for record in told] == ["cache_bypassed", "cache_back"]
    assert not any("secret" in str(vars(record)) for record in told)


async def say_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A Redis that takes everything."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while await read_command(reader):
            writer.write(b"+OK\r\n")
    writer.close()


def test_redis_hung_costs_the_deadline() -> None:
    """A peer that accepts and never answers costs the cache's own deadline, not the post's."""

    async def scenario() -> float:
        async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(3600)

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        cache = RedisCache(f"redis://127.0.0.1:{port}/0", CacheLimits(timeout_seconds=0.1))
        start = time.perf_counter()
        assert await cache.get("k") is None
        spent = time.perf_counter() - start
        await cache.close()
        server.close()
        return spent

    assert asyncio.run(scenario()) < 1


def test_a_cancelled_read_leaves_its_answer_to_nobody() -> None:
    """An answer that comes after its reader gave up is never handed to the next one."""
    asked: list[bytes] = []

    async def scenario() -> None:
        release = asyncio.Event()
        arrived = asyncio.Semaphore(0)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while command := await read_command(reader):
                    if command[0] != b"GET":
                        writer.write(b"+OK\r\n")
                        continue
                    asked.append(command[1])
                    arrived.release()
                    if command[1] == b"first":
                        await release.wait()
                    value = framed(command[1])
                    writer.write(b"$%d\r\n%s\r\n" % (len(value), value))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        cache = RedisCache(f"redis://127.0.0.1:{port}/0?protocol=2", CacheLimits(timeout_seconds=5, max_connections=1))
        reading = asyncio.create_task(cache.get("first"))
        await arrived.acquire()
        reading.cancel()
        await asyncio.wait({reading})
        release.set()
        assert await cache.get("second") == b"value of second"
        await cache.close()
        server.close()

    asyncio.run(scenario())
    assert asked == [b"first", b"second"]


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """One command of Redis's protocol."""
    num_words = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(num_words):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def framed(key: bytes) -> bytes:
    """A value as the cache puts it under `key`."""
    value = b"value of " + key
    return _digest(key.decode(), value) + value


def test_many_readers_at_once_do_not_shut_the_breaker(redis_url: str) -> None:
    """More posts than connections wait for their turn, each its time and no longer: that is load, not trouble."""
    events: list[str] = []

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits(timeout_seconds=1.0), on_event=events.append)
        keys = [uuid4().hex for _ in range(128)]
        await asyncio.gather(*(cache.set(key, b"x" * 1_000_000, 20) for key in keys))
        begun = time.perf_counter()
        await asyncio.gather(*(cache.get(key) for key in keys))
        assert time.perf_counter() - begun < 3
        await cache.close()

    asyncio.run(scenario())
    assert set(events) <= {"hit", "miss", "late"}
    assert "hit" in events


@pytest.mark.parametrize(
    "answer", [b"$abc\r\n", b"$-5\r\n", b"-MOVED x\r\n", b"*1\r\n" * 3000, b"HTTP/1.1 400\r\n\r\n", b"\0\0", b":7\r\n"]
)
def test_a_peer_that_is_no_redis_is_trouble_and_no_more(answer: bytes) -> None:
    """Whatever the client raises on it costs a miss."""
    events: list[str] = []

    async def scenario() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(1000):
                    writer.write(answer)
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limits = CacheLimits(timeout_seconds=0.3)
        cache = RedisCache(f"redis://127.0.0.1:{port}/0?protocol=2", limits, on_event=events.append)
        assert await cache.get("k") is None
        await cache.set("k", b"v", 60)
        await cache.close()
        server.close()

    # What earlier tests left behind must not be finalised amid the deepest answer, where there is no room for it.
    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
    assert events


@pytest.mark.parametrize("kind", [{}, {"is_cluster": True}, {"sentinels": ["127.0.0.1:9"]}])
def test_while_redis_is_away_memory_stands_in(kind: dict[str, Any]) -> None:
    """A host isn't asked for the same picture over and over because our cache is away; and memory has its bound."""

    async def scenario() -> None:
        limits = CacheLimits(timeout_seconds=0.2, failures_to_open=2, spare_bytes=3 * (ENTRY_BYTES + 200))
        cache = RedisCache("redis://127.0.0.1:9", limits, **kind)
        for number in range(5):
            await cache.set(f"k{number}", b"x" * 190, 60)
        assert [await cache.get(f"k{number}") is not None for number in range(5)] == [False, False, True, True, True]
        await cache.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h/0?foo=bar", {}),
        ("redis://h/0?decode_responses=true", {}),
        ("redis://h/0?encoding=bogus", {}),
        ("redis://h/0?retry=3", {}),
        ("redis://h/1", {"is_cluster": True}),
        ("unix:///tmp/redis.sock", {"is_cluster": True}),
        ("redis:///0", {"sentinels": ["s:26379"]}),
    ],
)
def test_a_url_that_can_not_be_meant_is_refused_at_once(url: str, kind: dict[str, Any]) -> None:
    """Not at the first post."""
    with pytest.raises(WrongUrl):
        RedisCache(url, CacheLimits(), **kind)


def test_a_value_over_the_cap_is_not_kept(redis_url: str) -> None:
    """A large picture doesn't push out a thousand small ones."""
    events: list[str] = []
    key = uuid4().hex

    async def scenario() -> None:
        cache = RedisCache(redis_url, CacheLimits(max_value_bytes=10), on_event=events.append)
        await cache.set(key, b"x" * 10, 60)
        await cache.set(key + "large", b"x" * 11, 60)
        assert await cache.get(key) == b"x" * 10
        assert await cache.get(key + "large") is None
        await cache.close()

    asyncio.run(scenario())
    assert events == ["too_large", "hit", "miss"]
