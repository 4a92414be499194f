"""Fetching: what is refused without a connection, what each answer of a host becomes, and limits that hold."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from consumers.image_status import ImageStatus
from tests.network import http_host, make_tls
from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher
from worker.hosts import HostLimits

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
        (407, ImageStatus.HOST_DOWN),
        (429, ImageStatus.HOST_DOWN),
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


def test_a_body_below_the_least_rate_is_too_slow() -> None:
    """Bytes that drip keep the idle limit, and end as soon as the average can't be kept, long before the deadline."""

    async def scenario(pause: float, piece: bytes) -> tuple[bytes | ImageStatus, float]:
        async def drip(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(40):
                await response.write(piece)
                await asyncio.sleep(pause)
            return response

        async with serving(drip) as origin:
            limits = FetchLimits(
                total_seconds=20, least_rate=1000, rate_grace_seconds=0.3, allow_origins=frozenset({origin})
            )
            async with ImageFetcher(limits) as fetcher:
                start = time.perf_counter()
                return await outcome(fetcher, origin + "/x.jpg"), time.perf_counter() - start

    result, seconds = asyncio.run(scenario(0.05, b"x"))
    assert result == ImageStatus.TOO_SLOW
    assert 0.25 < seconds < 2
    result, seconds = asyncio.run(scenario(0.02, b"x" * 200))
    assert result == b"x" * 8000
    assert seconds > 0.5


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


def test_hosts_are_told_who_asks() -> None:
    """The User-Agent names the program, its version, and where to complain."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["User-Agent"])
        return web.Response(body=b"x")

    fetched(answer)
    fetched(answer, contact="https://example.org/bot")
    name = f"nametag/{version('nametag')}"
    assert seen == [name, f"{name} (+https://example.org/bot)"]


@pytest.mark.parametrize("contact", ["", "a\r\nX: y", "a b", "a\x00", "me@example.org)", "m\u00e9@example.org", "\x7f"])
def test_a_contact_that_would_break_the_header_is_refused(contact: str) -> None:
    """Control characters, spaces, parentheses and what isn't ASCII."""
    with pytest.raises(ValueError, match="contact"):
        FetchLimits(contact=contact)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(code: int, form: str) -> None:
    """One request, and none until the time that the host named; other pictures of the host wait too."""
    requests: list[str] = []
    events: list[str] = []
    now = 0.0

    async def busy(request: web.Request) -> web.Response:
        requests.append(request.path)
        told = "30" if form == "seconds" else formatdate(time.time() + 30, usegmt=True)
        return (
            web.Response(status=code, headers={"Retry-After": told}) if len(requests) == 1 else web.Response(body=b"x")
        )

    async def scenario() -> list[bytes | ImageStatus]:
        nonlocal now
        async with serving(busy) as origin:
            limits = FetchLimits(allow_origins=frozenset({origin}))
            async with ImageFetcher(limits, on_event=events.append, clock=lambda: now) as fetcher:
                results = [await outcome(fetcher, f"{origin}/{number}") for number in range(3)]
                now = 30.1
                return [*results, await outcome(fetcher, f"{origin}/3")]

    assert asyncio.run(scenario()) == [ImageStatus.HOST_DOWN] * 3 + [b"x"]
    assert requests == ["/0", "/3"]
    assert events == ["asked_to_wait", "refused_by_wait", "refused_by_wait"]


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(code: int) -> None:
    """A busy host that names no time gets a second request, within the deadline."""
    requests: list[str] = []

    async def once(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(status=code) if len(requests) == 1 else web.Response(body=b"x")

    assert fetched(once) == b"x"
    assert len(requests) == 2


def test_a_failing_host_is_left_alone_and_taken_back() -> None:
    """After failures in a row there is no request; a probe in the background finds the host well again."""
    requests: list[str] = []
    closed = asyncio.Event()
    is_well, now = False, 0.0

    async def answer(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(body=b"x") if is_well else web.Response(status=500)

    def hear(event: str) -> None:
        if event == "breaker_closed":
            closed.set()

    async def scenario() -> None:
        nonlocal is_well, now
        async with serving(answer) as origin:
            limits = FetchLimits(hosts=HostLimits(failures_to_open=3), allow_origins=frozenset({origin}))
            async with ImageFetcher(limits, on_event=hear, clock=lambda: now) as fetcher:
                results = [await outcome(fetcher, f"{origin}/{number}") for number in range(6)]
                assert results == [ImageStatus.HOST_DOWN] * 6
                assert len(requests) == 3
                is_well, now = True, 5.1
                assert await outcome(fetcher, f"{origin}/probe") == ImageStatus.HOST_DOWN
                await asyncio.wait_for(closed.wait(), 2)
                assert await outcome(fetcher, f"{origin}/after") == b"x"

    asyncio.run(scenario())
    assert requests[3:] == ["/probe", "/after"]


def test_missing_pictures_do_not_make_a_host_bad() -> None:
    """Dead links are common; the host is well."""
    requests: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(status=404)

    async def scenario() -> None:
        async with serving(answer) as origin, ImageFetcher(FetchLimits(allow_origins=frozenset({origin}))) as fetcher:
            for number in range(20):
                assert await outcome(fetcher, f"{origin}/{number}") == ImageStatus.NOT_FOUND

    asyncio.run(scenario())
    assert len(requests) == 20


def test_a_name_server_in_trouble_passes_and_a_name_that_is_not_there_does_not() -> None:
    """The one is worth another try, the other is a picture that isn't there; neither is the host's fault."""
    asked: list[str] = []

    def find(host: str) -> list[str]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN if host == "busy.example" else socket.EAI_NONAME, "no address")

    async def scenario() -> list[bytes | ImageStatus]:
        limits = FetchLimits(hosts=HostLimits(failures_to_open=1))
        async with ImageFetcher(limits, find=find) as fetcher:
            urls = ("http://busy.example/", "http://nowhere.example/", "http://busy.example/")
            return [await outcome(fetcher, url) for url in urls]

    assert asyncio.run(scenario()) == [ImageStatus.HOST_DOWN, ImageStatus.NOT_FOUND, ImageStatus.HOST_DOWN]
    assert asked == ["busy.example"] * 2 + ["nowhere.example"] + ["busy.example"] * 2


@pytest.mark.parametrize("lacks_at", ["a look-up", "a socket", "a connection"])
def test_our_own_trouble_does_not_open_breakers(monkeypatch: pytest.MonkeyPatch, lacks_at: str) -> None:
    """Without a file descriptor left no host can be reached, and each would be thought bad, or missing."""

    def refuse(*_args: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    def find(_host: str) -> list[str]:
        if lacks_at == "a look-up":
            raise socket.gaierror(socket.EAI_SYSTEM, "system error")
        return ["8.8.8.8", "8.8.4.4", "2a00::1"]

    events: list[str] = []

    async def scenario() -> list[bytes | ImageStatus]:
        limits = FetchLimits(attempts=1, hosts=HostLimits(failures_to_open=1))
        if lacks_at == "a socket":
            monkeypatch.setattr("worker.fetch.guarded_socket", refuse)
        async with ImageFetcher(limits, find=find, on_event=events.append) as fetcher:
            monkeypatch.setattr(socket.socket, "connect", refuse)
            try:
                return [await outcome(fetcher, "http://a.example/") for _ in range(3)]
            finally:
                monkeypatch.undo()

    assert asyncio.run(scenario()) == [ImageStatus.HOST_DOWN] * 3
    assert events == []


def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    """It won't pass in a moment; no picture is taken from a host that can't show who it is."""

    async def speak(_line: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    async def scenario() -> ImageError:
        async with http_host(speak, make_tls(tmp_path).server) as port:
            origin = f"https://127.0.0.1:{port}"
            async with ImageFetcher(FetchLimits(allow_origins=frozenset({origin}))) as fetcher:
                with pytest.raises(ImageError) as caught:
                    await fetcher.fetch(origin + "/x.jpg")
                return caught.value

    error = asyncio.run(scenario())
    assert (error.status, str(error), error.retriable) == (ImageStatus.HOST_DOWN, "no TLS with the host", False)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308, 0, -1])
@pytest.mark.parametrize(
    "name",
    [
        "total_seconds", "attempts", "connect_seconds", "idle_seconds", "least_rate", "rate_grace_seconds",
        "max_image_bytes", "max_url_length",
    ],
)  # fmt: skip
def test_limits_that_no_timer_can_have_are_refused(name: str, value: float) -> None:
    """They would be found out by the first picture, with an error that stops the worker."""
    with pytest.raises(ValueError, match=f"^{name} must be above 0 and at most "):
        FetchLimits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "limits",
    [{"total_seconds": 86_400}, {"least_rate": 1e-320}, {"rate_grace_seconds": 86_400, "idle_seconds": 86_400}],
)
def test_limits_at_their_bounds_work(limits: dict[str, Any]) -> None:
    """What is let through can be kept."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 100_000)

    assert fetched(answer, **limits) == b"x" * 100_000


@pytest.mark.parametrize(
    "origin",
    [
        "", "127.0.0.1:8000", "ftp://a", "http://", "http://a/x", "http://a/?", "http://a?x", "http://a#x",
        "http://a b",
        "http://u:secret@a", "http://@a", "http://u[::1]@", "http://*.cdn.example", "http://*", "http://xn--☃",
        "http://xn--\u2603.example", "http://xn--0.example", "http://[::1%25eth0]", "http://[", "http://[v1.a]",
        "http://a:99999", "http://a:0", "http://a:", "http://-", "http://" + "a" * 70, "http://1.2.3", "http://%31",
        "http://a..b", "http://a\tb", "http://exa%mple", "http://\u200d", "http://a\\b",
    ],
)  # fmt: skip
def test_an_allowed_origin_is_scheme_host_and_port(origin: str) -> None:
    """What looks like more, such as a path or a pattern, would be thought to hold; no password is told."""
    with pytest.raises(ValueError, match=r"^allow_origins must be ") as caught:
        FetchLimits(allow_origins=frozenset({origin}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "origin", ["http://a", "HTTP://A", "https://a.example:8443/", "http://[::1]:80", "http://127.0.0.1:8000",
               "http://bücher.example", "http://xn--bcher-kva.example", "http://a_b.example"]
)  # fmt: skip
def test_an_origin_may_be_allowed(origin: str) -> None:
    """In any spelling that has one meaning."""
    FetchLimits(allow_origins=frozenset({origin}))
