"""Redis slow, cut off, hung, or closed amid questions: each call gets its own replies or none, and nothing stays."""

import asyncio
import contextlib
import gc
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from worker.cache import CacheLimits, RedisCache
from worker.redis_together import Command, NoTurn, Together

NUM_CALLS = 2000


@asynccontextmanager
async def served(serve: object) -> AsyncIterator[int]:
    """The port of a server that has `serve` see to each connection; those are ended with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)  # type: ignore[operator]
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


class Unreliable:
    """Passes on to a Redis and back, in pieces; now and then late, cut in the middle of an answer, or not at all."""

    def __init__(self, redis_url: str, chance: random.Random) -> None:
        self._address = urlsplit(redis_url)
        self._chance = chance
        self.is_well = False
        self.struck: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = self._address
        their_reader, their_writer = await asyncio.open_connection(address.hostname, address.port)
        asking = asyncio.create_task(self._pass(reader, their_writer))
        try:
            await self._answer(their_reader, writer)
        finally:
            asking.cancel()
            their_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            fate = (
                "well" if self.is_well or self._chance.random() < 0.9 else self._chance.choice(["late", "cut", "hung"])
            )
            self.struck[fate] += 1
            middle = self._chance.randrange(len(data))
            writer.write(data[:middle])
            if fate == "cut":
                return
            if fate == "hung":
                await asyncio.sleep(3600)
            if fate == "late":
                # About as long as a question may take: some give up just when it comes.
                await asyncio.sleep(self._chance.uniform(0.0, 0.08))
            writer.write(data[middle:])


@pytest.mark.parametrize("seed", range(2))
def test_each_call_has_its_own_replies_or_none(redis_url: str, seed: int) -> None:
    """Whatever becomes of connections and of those who ask; and when all is well again, all have theirs."""
    chance, key = random.Random(seed), uuid4().hex
    proxy = Unreliable(redis_url, chance)
    ends: Counter[str] = Counter()

    def questions() -> tuple[list[Command], list[object]]:
        """Some commands, and their replies."""
        commands: list[Command] = []
        replies: list[object] = []
        for _ in range(chance.randrange(1, 4)):
            number = chance.randrange(40)
            if chance.random() < 0.3:
                commands.append(("SET", f"{key}:{number}", value_of(number), "EX", 120))
                replies.append(True)
            elif chance.random() < 0.2:
                commands.append(("ZCARD", f"{key}:set:{number % 10}"))
                replies.append(number % 10)
            else:
                commands.append(("GET", f"{key}:{number}"))
                replies.append(value_of(number))
        return commands, replies

    async def call(together: Together) -> None:
        commands, replies = questions()
        by = asyncio.get_running_loop().time() + chance.uniform(0.0, 0.1) if chance.random() < 0.5 else None
        try:
            assert await together.ask(*commands, by=by) == replies
            ends["replies"] += 1
        except (NoTurn, TimeoutError, RedisError, OSError) as error:
            ends[type(error).__name__] += 1

    async def scenario() -> None:
        async with served(proxy.serve) as port:
            pool = BlockingConnectionPool.from_url(f"redis://127.0.0.1:{port}/0", max_connections=4, timeout=1)
            client = Redis.from_pool(pool)
            together = Together(client, num_questions=4, timeout_seconds=0.06)
            calls = []
            for _ in range(NUM_CALLS):
                calls.append(asyncio.create_task(call(together)))
                if chance.random() < 0.2:
                    chance.choice(calls[-20:]).cancel()
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.uniform(0.0, 0.01))
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in done} == {type(None), asyncio.CancelledError}
            proxy.is_well = True
            healed = Counter(ends)
            for _ in range(20):
                await call(together)
            assert sum((ends - healed).values()) == 20
            await together.close()
            assert (together._num_free, len(together._calls)) == (4, 0)
            await client.aclose()

    with BlockingRedis.from_url(redis_url) as direct:
        for number in range(40):
            direct.set(f"{key}:{number}", value_of(number), ex=120)
        for number in range(1, 10):
            direct.zadd(f"{key}:set:{number}", {str(member): member for member in range(number)})
            direct.expire(f"{key}:set:{number}", 120)
    asyncio.run(scenario())
    assert min(ends["replies"], *(proxy.struck[fate] for fate in ("late", "cut", "hung"))) > 5, (ends, proxy.struck)


def value_of(number: int) -> bytes:
    """Some are larger than what is read at once."""
    return b"%d of " % number * (1 if number % 8 else 30_000)


def test_trouble_amid_answers_is_everyones(redis_url: str) -> None:
    """A Redis that says LOADING in the middle of its answers has the client leave the rest unread: nobody gets it."""
    asked: list[bytes] = []

    async def loading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            num_words = int((await reader.readuntil(b"\r\n"))[1:])
            words = [await reader.readexactly(int((await reader.readuntil(b"\r\n"))[1:]) + 2) for _ in range(num_words)]
            if words[0] != b"GET\r\n":
                writer.write(b"+OK\r\n")
                continue
            asked.append(words[1][:-2])
            is_second = asked[-1] == b"b" and asked.count(b"b") == 1
            writer.write(b"-LOADING Redis is loading\r\n" if is_second else b"$1\r\n%s\r\n" % asked[-1])

    async def scenario() -> None:
        async with served(loading) as port, Redis.from_url(f"redis://127.0.0.1:{port}/0?protocol=2") as client:
            together = Together(client, num_questions=1, timeout_seconds=5.0)
            told = await asyncio.gather(*(together.ask(("GET", key)) for key in "abc"), return_exceptions=True)
            assert [type(each).__name__ for each in told] == ["BusyLoadingError"] * 3
            assert await asyncio.gather(*(together.ask(("GET", key)) for key in "cba")) == [[b"c"], [b"b"], [b"a"]]

    asyncio.run(scenario())


def test_a_redis_that_hangs_is_soon_bypassed_by_many() -> None:
    """That many share a question isn't taken for the reason for long."""
    events: list[str] = []

    async def scenario() -> None:
        async with served(hang) as port:
            limits = CacheLimits(timeout_seconds=0.1)
            cache = RedisCache(f"redis://127.0.0.1:{port}/0", limits, on_event=events.append)
            for _ in range(4):
                await asyncio.gather(*(cache.get(f"k{number}") for number in range(200)))
            await cache.close()

    asyncio.run(scenario())
    assert events[-400] == "bypassed"
    assert events.count("error") < 20


def test_what_was_not_kept_is_let_go_of() -> None:
    """The error that the breaker knows a question by holds nothing that was asked."""

    async def scenario() -> None:
        async with served(hang) as port:
            limits = CacheLimits(timeout_seconds=0.1, failures_to_open=100, spare_bytes=0)
            cache = RedisCache(f"redis://127.0.0.1:{port}/0", limits)
            tracemalloc.start()
            try:
                await cache.set("k", bytes(2_000_000), 60)
                gc.collect()
                assert cache._num_failures == 1
                assert tracemalloc.get_traced_memory()[0] < 1_000_000
            finally:
                tracemalloc.stop()
            await cache.close()

    asyncio.run(scenario())


def test_a_cache_closed_amid_questions_ends_them(redis_url: str) -> None:
    """Those that were put have their answers, the others have no turn; and no connection stays."""
    name, events = uuid4().hex, []

    def num_connections() -> int:
        with BlockingRedis.from_url(redis_url) as direct:
            return sum(each["name"] == name for each in direct.client_list())

    async def scenario() -> None:
        cache = RedisCache(f"{redis_url}?client_name={name}", CacheLimits(timeout_seconds=5.0), on_event=events.append)
        await cache.set(name, b"x", 60)
        assert num_connections() == 1
        reading = [asyncio.create_task(cache.get(name)) for _ in range(500)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await cache.close()
        assert all(each.done() for each in reading)
        assert {each.result() for each in reading} == {b"x", None}
        assert await cache.get(name) is None
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
    assert num_connections() == 0
    assert Counter(events)["hit"] + Counter(events)["late"] == 501
