"""A hostile image server: whatever it sends, the fetcher ends in time, in bounds, and with a status."""

import asyncio
import gzip
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.image_status import ImageStatus
from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher
from worker.hosts import HostFailure, HostLimits
from worker.wire import TooMuchWork, WatchedConnector, WatchedProtocol

Speak = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def raw_server(speak: Speak) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that reads a request, then says what `speak` writes; its origin, and whether the peer hung up."""
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await speak(writer)
            await writer.drain()
            writer.write_eof()
            await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", hung_up
    finally:
        server.close()


def fetched(speak: Speak, **limits: Any) -> bytes | ImageStatus:
    """What a fetch from such a server gives; checks that it ends in time and that the connection is let go."""

    async def scenario() -> bytes | ImageStatus:
        async with raw_server(speak) as (origin, hung_up):
            wanted = FetchLimits(**{"total_seconds": 0.5, "allow_origins": frozenset({origin}), **limits})
            async with ImageFetcher(wanted) as fetcher:
                start = time.perf_counter()
                try:
                    result: bytes | ImageStatus = await fetcher.fetch(origin + "/x.jpg")
                except ImageError as error:
                    result = error.status
                assert time.perf_counter() - start < wanted.total_seconds + 2
            await asyncio.wait_for(hung_up.wait(), 2)
            return result

    return asyncio.run(scenario())


async def flood(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)  # draining alone doesn't let the fetcher have its turn


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.05)


def test_headers_that_drip_end_at_the_deadline() -> None:
    """A slow loris keeps every idle limit, and no header ever ends."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"X: ")
        await drip(writer, b"x")

    assert fetched(speak) == ImageStatus.TOO_SLOW


def test_silence_ends_at_the_idle_limit() -> None:
    """A host that takes the request and says nothing costs the idle limit, not the deadline."""

    async def silent(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def scenario() -> float:
        async with raw_server(silent) as (origin, _):
            limits = FetchLimits(total_seconds=10, idle_seconds=0.2, allow_origins=frozenset({origin}))
            async with ImageFetcher(limits) as fetcher:
                start = time.perf_counter()
                with pytest.raises(ImageError) as caught:
                    await fetcher.fetch(origin + "/x.jpg")
                assert caught.value.status is ImageStatus.TOO_SLOW
                return time.perf_counter() - start

    assert asyncio.run(scenario()) < 2


@pytest.mark.parametrize(
    "piece",
    [b"X-Filler: " + b"x" * 1000 + b"\r\n", b"A: b\r\n" * 500, b"x" * 4096],
    ids=["many large headers", "many small headers", "one endless header"],
)
def test_headers_without_end_are_refused(piece: bytes) -> None:
    """Headers have a limit of their own, far below what a host can send until the deadline."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await flood(writer, piece)

    assert fetched(speak, total_seconds=5) == ImageStatus.HOST_DOWN


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * 3000),
        (CHUNKED, b"1\r\na\r\n" * 10_000),
        (CHUNKED, b"40\r\n" + b"a" * 64 + b"\r\n"),
        (CHUNKED, b"1;" + b"x" * 4000 + b"\r\na\r\n"),
        (CHUNKED + b"1;", b"x" * 60_000),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n" * 100),
        (HEAD + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 1000),
    ],
    ids=[
        "continue", "early hints", "chunks of a byte", "small chunks", "extensions", "one endless extension",
        "trailers", "answers that nobody asked for",
    ],
)  # fmt: skip
def test_what_is_only_work_is_broken_off(start: bytes, piece: bytes) -> None:
    """Long before the deadline; and one that floods holds up the loop for no longer than a moment."""
    gaps: list[float] = []

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await flood(writer, piece)

    async def scenario() -> bytes | ImageStatus:
        async with AsyncExitStack() as stack:
            origin, _ = await stack.enter_async_context(raw_server(speak))
            limits = FetchLimits(attempts=1, allow_origins=frozenset({origin}))
            fetcher = await stack.enter_async_context(ImageFetcher(limits))
            try:
                return await fetcher.fetch(origin + "/x.jpg")
            except ImageError as error:
                return error.status

    begun = time.perf_counter()
    received = WatchedProtocol.data_received

    def timed(self: WatchedProtocol, data: bytes) -> None:
        at = time.thread_time()
        received(self, data)
        gaps.append(time.thread_time() - at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WatchedProtocol, "data_received", timed)
        result = asyncio.run(scenario())
    # An answer of nothing is whole before the flood begins; trailers have a limit of the parser's.
    assert result in (ImageStatus.TOO_SLOW, ImageStatus.HOST_DOWN, b"", b"a")
    assert time.perf_counter() - begun < 2
    assert max(gaps) < 0.1


def test_segments_of_a_byte_are_broken_off() -> None:
    """Each is a read of the socket, and a turn of the loop."""

    class Transport(asyncio.Transport):
        is_cut = False

        def abort(self) -> None:
            self.is_cut = True

        def is_closing(self) -> bool:
            return self.is_cut

    async def scenario() -> int:
        transport, protocol = Transport(), WatchedProtocol(asyncio.get_running_loop())
        protocol.connection_made(transport)
        protocol.set_response_params()
        protocol.data_received(HEAD + b"Content-Length: 10000000\r\n\r\n")
        num = 0
        while not transport.is_cut:
            protocol.data_received(b"a")
            num += 1
        with pytest.raises(TooMuchWork):
            (_, body) = await protocol.read()
            await body.read()
        return num

    assert 2000 < asyncio.run(scenario()) < 2100


@pytest.mark.parametrize("size", [200, 1460, 4096, 65_536, 1_000_000])
def test_a_picture_in_chunks_is_no_more_work_than_it_is_worth(size: int) -> None:
    """Hosts that write a picture out in small pieces are served too; and early hints may come before it."""
    picture = random.Random(1).randbytes(5_000_000)

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3 + CHUNKED)
        for at in range(0, len(picture), size):
            piece = picture[at : at + size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")

    assert fetched(speak, total_seconds=5) == picture


def test_a_picture_that_comes_faster_than_it_is_taken_is_whole() -> None:
    """Reading pauses in the middle of what came, and goes on where it was."""
    picture = random.Random(1).randbytes(5_000_000)

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)

    async def scenario() -> bytes:
        async with AsyncExitStack() as stack:
            origin, _ = await stack.enter_async_context(raw_server(speak))
            connector = WatchedConnector(max_idle=1)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, read_bufsize=1000))
            response = await stack.enter_async_context(session.get(origin))
            data = bytearray()
            while chunk := await response.content.readany():
                data += chunk
                if random.random() < 0.05:
                    await asyncio.sleep(0.001)
            return bytes(data)

    assert asyncio.run(scenario()) == picture


@pytest.mark.parametrize(
    "framing",
    [b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=["until the connection ends", "chunked", "chunked with a length that lies"],
)
def test_a_body_without_end_stops_at_the_limit(framing: bytes) -> None:
    """The bytes read are what counts, and the connection is cut rather than drained."""
    piece = b"x" * 4096
    chunk = b"1000\r\n" + piece + b"\r\n" if b"chunked" in framing else piece

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + framing)
        await flood(writer, chunk)

    result = fetched(speak, max_image_bytes=100_000, total_seconds=5)
    # Both a length and chunks is a smuggler's trick, which the parser may refuse as a whole.
    assert result == ImageStatus.TOO_LARGE or (b"Length" in framing and result == ImageStatus.HOST_DOWN)


def test_a_compressed_body_is_not_unpacked() -> None:
    """A gzip bomb that nobody asked for stays as small as it came."""
    bomb = gzip.compress(b"\0" * 20_000_000)

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)

    assert fetched(speak, max_image_bytes=100_000) == bomb


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://[::1",
        "http://u[::1]@/",
        "//u[::1]@/",
        "http://u:p@example.org/",
        "//127.0.0.1/",
        "http://0x7f.1/",
        "\\\\127.0.0.1\\x",
        "data:,x",
    ],
)
def test_a_redirect_to_nowhere_good_is_refused(location: str | None) -> None:
    """A redirect without a target, to no URL, with credentials, or to a private address by another name."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        told = b"" if location is None else b"Location: " + location.encode() + b"\r\n"
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + told + b"\r\n")

    assert fetched(speak) in (ImageStatus.BLOCKED_ADDRESS, ImageStatus.NOT_FOUND)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(
        [b"", HEAD, HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 302 x\r\nLocation: "]
    ),
    st.binary(max_size=200),
)
def test_any_answer_is_bytes_or_a_status(start: bytes, rest: bytes) -> None:
    """No answer stops the worker: whatever else the HTTP client raises would."""

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(start + rest)

    assert isinstance(fetched(speak), bytes | ImageStatus)


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=40),
    st.sampled_from(["", "http://", "http://127.0.0.1/", "http://127.0.0.1:", "https://[", "http://a@"]),
)
def test_any_url_is_refused_with_a_status(rest: str, start: str) -> None:
    """A post may hold any text where a URL should be; lone surrogates and control characters too."""

    async def scenario() -> None:
        # Names that could exist are left to the resolver's tests: no test asks a name server.
        async with ImageFetcher(FetchLimits(total_seconds=0.5), find=no_such_host) as fetcher:
            with pytest.raises(ImageError):
                await fetcher.fetch(start + rest)

    asyncio.run(scenario())


def no_such_host(_host: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "no such host")


def test_name_servers_that_hang_hold_up_no_other_thread() -> None:
    """Look-ups without an answer end at the deadline, and asyncio's own threads stay free for the rest."""
    answer = threading.Event()

    def hang(_host: str) -> list[str]:
        answer.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async def scenario() -> None:
        async with ImageFetcher(FetchLimits(total_seconds=0.3), find=hang) as fetcher:
            fetches = [fetcher.fetch(f"http://host{number}.example/") for number in range(64)]
            waiting = asyncio.gather(*fetches, return_exceptions=True)
            await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 5)
            results = await waiting
            assert {error.status for error in results if isinstance(error, ImageError)} == {ImageStatus.TOO_SLOW}
            assert len(results) == 64

    try:
        asyncio.run(scenario())
    finally:
        answer.set()


def test_a_name_server_that_hangs_holds_up_no_other_domain_and_opens_no_breaker() -> None:
    """More names of one domain than there are threads; a good host's name resolves, and nobody is to blame."""
    answer = threading.Event()
    events: list[str] = []

    def find(host: str) -> list[str]:
        if host.endswith("evil.example"):
            answer.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ["127.0.0.1"]

    async def speak(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 1\r\n\r\nx")

    async def scenario() -> None:
        async with raw_server(speak) as (origin, _):
            good = origin.replace("127.0.0.1", "good.test")
            limits = FetchLimits(
                connect_seconds=0.4, hosts=HostLimits(failures_to_open=1), allow_origins=frozenset({good})
            )
            async with ImageFetcher(limits, find=find, on_event=events.append) as fetcher:
                urls = [f"http://{number}.evil.example/{again}" for again in range(2) for number in range(60)]
                bad = [asyncio.create_task(fetcher.fetch(url)) for url in urls]
                await asyncio.sleep(0.05)
                async with asyncio.timeout(0.3):
                    assert await fetcher.fetch(good + "/x.jpg") == b"x"
                for error in await asyncio.gather(*bad, return_exceptions=True):
                    assert isinstance(error, ImageError) and not isinstance(error, HostFailure)
                    assert (error.status, str(error)) == (ImageStatus.HOST_DOWN, "no name server answers in time")

    try:
        asyncio.run(scenario())
    finally:
        answer.set()
    assert events == []


def test_a_look_up_that_the_deadline_ends_is_not_the_hosts_fault() -> None:
    """However long it had lasted by then."""
    answer = threading.Event()
    events: list[str] = []

    def hang(_host: str) -> list[str]:
        answer.wait(20)
        return ["127.0.0.1"]

    async def scenario() -> None:
        limits = FetchLimits(total_seconds=0.3, hosts=HostLimits(failures_to_open=1))
        async with ImageFetcher(limits, find=hang, on_event=events.append) as fetcher:
            for _ in range(2):
                with pytest.raises(ImageError, match="not within the deadline"):
                    await fetcher.fetch("http://a.example/x.jpg")

    try:
        asyncio.run(scenario())
    finally:
        answer.set()
    assert events == []


@pytest.mark.parametrize(
    ("answer", "most"),
    [(b"HTTP/1.1 404 Not Found\r\n", 0), (b"HTTP/1.1 302 Found\r\nLocation: /\r\n", 0), (HEAD, 64)],
    ids=["missing", "redirects", "pictures"],
)
def test_hosts_without_end_leave_few_connections_open(answer: bytes, most: int) -> None:
    """Each post may name another host, and each connection that is kept is a file of this process."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer + b"Content-Length: 0\r\n\r\n")
        writers.discard(writer)
        writer.close()

    async def scenario() -> tuple[int, int]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            names = [f"http://a.n{number}.test:{port}" for number in range(200)]
            limits = FetchLimits(attempts=1, allow_origins=frozenset(names))
            async with ImageFetcher(limits, find=lambda _host: ["127.0.0.1"]) as fetcher:
                await asyncio.gather(*(fetcher.fetch(f"{name}/x.jpg") for name in names), return_exceptions=True)
                await asyncio.sleep(0.1)
                left = len(writers)
                await asyncio.gather(*(fetcher.fetch(f"{name}/y.jpg") for name in names), return_exceptions=True)
                await asyncio.sleep(0.1)
                return left, len(writers)

    assert asyncio.run(scenario()) == (most, most)
