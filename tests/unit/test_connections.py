"""Connections that strangers hold open: each has its time, and all of them together leave room for a probe."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from worker.connections import ConnectionLimits
from worker.metrics import Metrics
from worker.server import ServerConfig, serve

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 32 << 20
Wires = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Slow:
    """Handlers that take their time, or a body, or answer with more than a socket's buffers hold."""

    def __init__(self) -> None:
        self.under_way = asyncio.Semaphore(0)
        self.gate = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        async def wait(_request: web.Request) -> web.Response:
            self.under_way.release()
            await self.gate.wait()
            return web.Response(text="done")

        async def read(request: web.Request) -> web.Response:
            self.under_way.release()
            return web.Response(text=str(len(await request.read())))

        async def large(_request: web.Request) -> web.Response:
            self.under_way.release()
            return web.Response(body=bytes(LARGE))

        async def broken(_request: web.Request) -> web.Response:
            raise RuntimeError("SECRET words")

        app.router.add_get("/wait", wait)
        app.router.add_post("/read", read)
        app.router.add_get("/large", large)
        app.router.add_get("/broken", broken)


class World:
    """A server, and connections to it that the test holds."""

    def __init__(self, port: int, slow: Slow, stack: AsyncExitStack) -> None:
        self._port = port
        self.slow = slow
        self._stack = stack
        self._held: list[Wires] = []

    async def open(self, sent: bytes = b"") -> Wires:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._stack.callback(writer.transport.abort)
        # asyncio closes a connection whose ends nobody has any more.
        self._held.append((reader, writer))
        writer.write(sent)
        return reader, writer


@asynccontextmanager
async def world(limits: ConnectionLimits) -> Any:
    slow = Slow()
    config = ServerConfig(port=0, limits=limits)
    async with (
        asyncio.timeout(20),
        serve(config, Metrics(), lambda: None, [slow]) as address,
        AsyncExitStack() as stack,
    ):
        yield World(int(address.rpartition(":")[2]), slow, stack)


def run(scenario: Callable[[World], Awaitable[None]], **limits: Any) -> None:
    async def whole() -> None:
        async with world(ConnectionLimits(**limits)) as here:
            await scenario(here)

    asyncio.run(whole())


async def is_healthy(here: World, wires: Wires | None = None) -> bool:
    """Whether a probe is answered."""
    reader, writer = wires or await here.open()
    writer.write(HEALTH)
    try:
        return (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes the connection within a second, without a word."""
    try:
        return await asyncio.wait_for(reader.read(), 1) == b""
    except ConnectionError:
        return True


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """A byte every 20 ms, for as long as they are taken."""
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_header_that_doesnt_come_whole_is_not_waited_for(sent: bytes) -> None:
    """Nothing sent, or a part; in time it was taken."""

    async def scenario(here: World) -> None:
        reader, _ = await here.open(sent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.15)
        assert await is_closed(reader)

    run(scenario, header_seconds=0.3)


def test_bytes_that_drip_gain_no_time() -> None:
    """Neither in the first header nor in a later one."""

    async def scenario(here: World) -> None:
        fresh = await here.open()
        used = await here.open()
        assert await is_healthy(here, used)
        for reader, writer in (fresh, used):
            dripping = asyncio.create_task(drip(writer, HEALTH[:-2] + b"X: " + b"x" * 900))
            assert await is_closed(reader)
            dripping.cancel()

    run(scenario, header_seconds=0.3)


def test_an_idle_connection_is_kept_for_a_scraper_and_then_closed() -> None:
    """Past the time for a header, for it isn't waited for; not past the time between two requests."""

    async def scenario(here: World) -> None:
        wires = await here.open()
        assert await is_healthy(here, wires)
        await asyncio.sleep(0.3)
        assert await is_healthy(here, wires)
        assert await is_closed(wires[0])

    run(scenario, header_seconds=0.1, idle_seconds=0.6, write_seconds=0.1)


def test_an_answer_that_nobody_takes_is_not_held() -> None:
    """It would stay in memory for as long as the client likes."""

    async def scenario(here: World) -> None:
        reader, _ = await here.open(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await here.slow.under_way.acquire()
        await asyncio.sleep(0.5)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(LARGE)

    run(scenario, write_seconds=0.2)


def test_a_full_server_answers_a_probe_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """In place of who has waited longest, told once; whoever is being answered stays."""

    async def scenario(here: World) -> None:
        answered = [await here.open(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(2)]
        for _ in answered:
            await here.slow.under_way.acquire()
        silent = [await here.open(b"GET /") for _ in range(6)]
        for num_closed in (1, 2):
            assert await is_healthy(here)
            assert await is_closed(silent[num_closed - 1][0])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(silent[2][0].read(), 0.1)
        here.slow.gate.set()
        for reader, _ in answered:
            assert b"200 OK" in await reader.readuntil(b"done")

    run(scenario, max_open=8)
    assert [record.message for record in caplog.records].count("connections_full") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_bodies_and_answers_that_get_stuck_leave_room_too(sent: bytes) -> None:
    """A request whose end doesn't come, and an answer that isn't taken, hold a place only while there is one."""

    async def scenario(here: World) -> None:
        for _ in range(4):
            await here.open(sent)
            await here.slow.under_way.acquire()
        assert await is_healthy(here)

    run(scenario, max_open=4)


def test_where_all_are_being_answered_the_newcomer_goes() -> None:
    """Nobody loses an answer that the worker is at."""

    async def scenario(here: World) -> None:
        answered = [await here.open(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(2)]
        for _ in answered:
            await here.slow.under_way.acquire()
        assert not await is_healthy(here)
        here.slow.gate.set()
        for reader, _ in answered:
            assert b"200 OK" in await reader.readuntil(b"done")
        assert await is_healthy(here, answered[0])

    run(scenario, max_open=2)


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        (b"nonsense\r\n\r\n", 400, "can't be read"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 400, "too long"),
        (b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n", 500, "log says why"),
    ],
)
def test_what_is_no_request_and_what_breaks_is_told_as_json(
    sent: bytes, status: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the one shape of all errors, and without the words of the failure."""

    async def scenario(here: World) -> None:
        reader, _ = await here.open(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.split()[1] == b"%d" % status
        assert b"Content-Type: application/json" in head
        assert b"Server: nametag" in head
        assert told in json.loads(body)["error"]
        assert b"SECRET" not in body

    run(scenario)
    # A stranger's nonsense fills no log; a fault of ours is told whole.
    assert ("RuntimeError" in caplog.text) == (status == 500)
    assert caplog.text == "" or status == 500
