"""Fetching: what is refused without a connection, what each answer of a host becomes, and limits that hold."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

import worker.fetch
from consumers.image_status import ImageStatus
from worker.errors import ImageError
from worker.addresses import is_public
from worker.fetch import FetchLimits, ImageFetcher

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A real HTTP server on loopback; gives its origin."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def fetched(handler: Handler, path: str = "/x.jpg", **limits: Any) -> bytes | ImageStatus:
    """What fetching `path` from a server with `handler` gives: bytes, or the status."""

    async def scenario() -> bytes | ImageStatus:
        async with serving(handler) as origin:
            wanted = FetchLimits(allow_origins=frozenset({origin}), **limits)
            async with ImageFetcher(wanted) as fetcher:
                return await outcome(fetcher, origin + path)

    return asyncio.run(scenario())


async def outcome(fetcher: ImageFetcher, url: str) -> bytes | ImageStatus:
    try:
        return await fetcher.fetch(url)
    except ImageError as error:
        return error.status


BLOCKED_URLS = [
    *(
        f"http://{host}/x.jpg"
        for host in (
            "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "localhost",
            "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
            "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
            "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]", "[64:ff9b::7f00:1]",
            "[64:ff9b::808:808]", "[2002:7f00:1::]", "[2002:808:808::]", "[2001:db8::1]", "[fe80::1]",
            "[fc00::1]", "[fd12::1]", "[fec0::1]", "[3fff::1]", "192.88.99.1", "[5f00::1]",
            "[ff02::1]", "[::127.0.0.1]", "[2001::1]",
        )
    ),
    "ftp://example.org/x.jpg", "file:///etc/passwd", "gopher://example.org/", "data:image/png;base64,AA",
    "javascript:alert(1)", "//example.org/x.jpg", "x.jpg", "", "http://", "http:///x.jpg", "http://[::1",
    "http://example.org:22/x.jpg", "http://example.org:8080/x.jpg", "http://example.org:0/",
    "http://example.org:99999/", "http://user:secret@example.org/x.jpg", "http://user@example.org/x.jpg",
    "http://example.org@127.0.0.1/", "https://127.0.0.1/x.jpg", "https://[::1]/x.jpg",
    "http://example.org/" + "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("url", BLOCKED_URLS)
def test_a_blocked_url_makes_no_connection(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is made for an address that isn't public, nor for a URL that isn't a picture's."""
    made: list[Any] = []

    class Recording(socket.socket):
        def __init__(self, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(*arguments)

    # A stand-in for the module alone: asyncio makes sockets of its own for its loop.
    monkeypatch.setattr(worker.fetch, "socket", SimpleNamespace(**(vars(socket) | {"socket": Recording})))

    async def scenario() -> bytes | ImageStatus:
        async with ImageFetcher(FetchLimits(total_seconds=2)) as fetcher:
            return await outcome(fetcher, url)

    result = asyncio.run(scenario())
    assert result in (ImageStatus.BLOCKED_ADDRESS, ImageStatus.NOT_FOUND)
    assert made == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_may_be_dialled(address: str) -> None:
    """The guard lets the internet through."""
    assert is_public(address)


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "http://169.254.169.254/", "file:///etc/passwd"])
def test_a_redirect_is_checked_on_every_hop(target: str) -> None:
    """A redirect from a permitted origin to anywhere else meets the guard again."""

    async def redirect(_request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target})

    assert fetched(redirect) == ImageStatus.BLOCKED_ADDRESS


def test_a_few_redirects_are_followed_and_no_more() -> None:
    """Three hops are fine, a loop is not."""

    async def countdown(request: web.Request) -> web.Response:
        left = int(request.path.strip("/"))
        if left == 0:
            return web.Response(body=b"there")
        return web.Response(status=301, headers={"Location": f"/{left - 1}"})

    assert fetched(countdown, "/3") == b"there"
    assert fetched(countdown, "/4") == ImageStatus.BLOCKED_ADDRESS


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (404, ImageStatus.NOT_FOUND),
        (400, ImageStatus.NOT_FOUND),
        (410, ImageStatus.GONE),
        (401, ImageStatus.FORBIDDEN),
        (403, ImageStatus.FORBIDDEN),
        (451, ImageStatus.FORBIDDEN),
        (500, ImageStatus.HOST_DOWN),
        (503, ImageStatus.HOST_DOWN),
        (204, ImageStatus.NOT_FOUND),
    ],
)
def test_each_answer_has_its_status(code: int, status: ImageStatus) -> None:
    """The host's answer is told apart in the event."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=code)

    assert fetched(answer) == status


def test_the_bytes_read_are_capped_whatever_the_host_says() -> None:
    """A told length over the limit, and an untold one, both end at the limit."""

    async def told(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 2000)

    async def untold(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x" * 100)
        return response

    assert fetched(told, max_image_bytes=1000) == ImageStatus.TOO_LARGE
    assert fetched(untold, max_image_bytes=1000) == ImageStatus.TOO_LARGE
    assert fetched(told, max_image_bytes=2000) == b"x" * 2000


def test_a_slow_host_costs_no_more_than_the_deadline() -> None:
    """A trickle that keeps every idle limit still ends at the total deadline."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    assert fetched(drip, total_seconds=0.5) == ImageStatus.TOO_SLOW


def test_a_host_that_breaks_off_is_down() -> None:
    """A connection cut in the middle of the body is no picture."""

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.close()
        return response

    assert fetched(cut) == ImageStatus.HOST_DOWN
    assert asyncio.run(_nobody()) == ImageStatus.HOST_DOWN


async def _nobody() -> bytes | ImageStatus:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with ImageFetcher(FetchLimits(allow_origins=frozenset({origin}))) as fetcher:
        return await outcome(fetcher, origin + "/x.jpg")


def test_identity_is_asked_for_and_cookies_are_not_kept() -> None:
    """No compressed bodies (bombs), no state between hosts."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        response = web.Response(body=b"x")
        response.set_cookie("track", "1")
        return response

    async def scenario() -> None:
        async with serving(answer) as origin, ImageFetcher(FetchLimits(allow_origins=frozenset({origin}))) as fetcher:
            await fetcher.fetch(origin + "/1")
            await fetcher.fetch(origin + "/2")

    asyncio.run(scenario())
    assert [request.headers["Accept-Encoding"] for request in seen] == ["identity", "identity"]
    assert "Cookie" not in seen[1].headers
