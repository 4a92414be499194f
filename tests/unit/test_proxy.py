"""Fetching through an outbound proxy: what is handed over, and what is not."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from consumers.image_status import ImageStatus
from tests.network import HttpProxy, Recorder, http_host, make_tls, name_server, recording
from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher
from worker.hosts import HostLimits

ZONE: dict[str, list[list[str] | str]] = {
    "public.example": [["93.184.215.14"]],
    "private.example": [["10.0.0.1"]],
    "alias.example": ["localhost"],
}


async def through(server: HttpProxy, urls: list[str], location: str | None = None, **limits: Any) -> Any:
    """What fetches through `server` give, and the connections beside those to the proxy."""

    async def speak(line: str, writer: asyncio.StreamWriter) -> None:
        if location is not None and "/start" in line:
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % location.encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    async with AsyncExitStack() as stack:
        find = await stack.enter_async_context(name_server(ZONE))
        host = await stack.enter_async_context(http_host(speak))
        server.deliver = {80: host, **server.deliver}
        port = await stack.enter_async_context(server.running())
        recorder = stack.enter_context(recording({}, exempt=frozenset({port, *server.deliver.values()})))
        login = "" if server.credentials is None else server.credentials + "@"
        wanted = FetchLimits(**{"attempts": 1, "proxy": f"http://{login}127.0.0.1:{port}", **limits})
        fetcher = await stack.enter_async_context(ImageFetcher(wanted, find=find))
        return [await outcome(fetcher, url) for url in urls], recorder


async def outcome(fetcher: ImageFetcher, url: str) -> bytes | ImageStatus:
    try:
        return await fetcher.fetch(url)
    except ImageError as error:
        return error.status


def test_a_picture_comes_through_the_proxy() -> None:
    """In absolute form, with the proxy's own credentials; nothing else is dialled."""
    proxy = HttpProxy(deliver={}, credentials="me:secret")
    results, recorder = asyncio.run(through(proxy, ["http://public.example/x.jpg", "http://8.8.8.8/"]))
    assert results == [b"x", b"x"]
    assert proxy.requests == ["GET http://public.example/x.jpg HTTP/1.1", "GET http://8.8.8.8/ HTTP/1.1"]
    assert recorder.dialled == []


def test_https_goes_through_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT, then TLS with the host itself: the proxy sees no more than its name."""
    tls = make_tls(tmp_path)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", tls.client)

    async def speak(_line: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    async def scenario() -> tuple[list[Any], Recorder, HttpProxy]:
        async with http_host(speak, tls.server) as port:
            proxy = HttpProxy(deliver={443: port}, credentials="me:secret")
            results, recorder = await through(proxy, ["https://public.example/x.jpg"])
            return results, recorder, proxy

    results, recorder, proxy = asyncio.run(scenario())
    assert results == [b"secret"]
    assert proxy.requests == ["CONNECT public.example:443 HTTP/1.1"]
    assert recorder.dialled == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "https://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://10.0.0.1/",
        "http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://010.8.8.8/", "http://[::ffff:127.0.0.1]/",
        "http://private.example/", "https://private.example/", "http://alias.example/", "http://localhost/",
        "http://nowhere.example/", "http://u:p@public.example/", "http://public.example:8080/", "ftp://public.example/",
    ],
)  # fmt: skip
def test_what_leads_to_private_addresses_is_not_handed_over(url: str) -> None:
    """Literals in any spelling, names that this machine finds private, and names that it doesn't find."""
    proxy = HttpProxy(deliver={})
    results, recorder = asyncio.run(through(proxy, [url]))
    assert results[0] in (ImageStatus.BLOCKED_ADDRESS, ImageStatus.NOT_FOUND)
    assert proxy.requests == []
    assert recorder.dialled == []


@pytest.mark.parametrize("location", ["http://127.0.0.1/", "http://private.example/", "//[::1]/", "http://0x7f.1/"])
def test_redirects_are_checked_before_they_are_handed_over(location: str) -> None:
    """Every hop, as without a proxy."""
    proxy = HttpProxy(deliver={})
    results, _ = asyncio.run(through(proxy, ["http://public.example/start"], location))
    assert results == [ImageStatus.BLOCKED_ADDRESS]
    assert len(proxy.requests) == 1


def test_a_proxy_that_is_down_is_not_the_hosts_fault() -> None:
    """Its refusals and its absence degrade the posts, and open no host's breaker."""
    one = HostLimits(failures_to_open=1)
    urls = ["http://public.example/", "https://public.example/"] * 2
    wrong_login = HttpProxy(
        deliver={}, answer=b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    )
    results, _ = asyncio.run(through(wrong_login, urls, hosts=one))
    assert results == [ImageStatus.HOST_DOWN] * 4
    assert len(wrong_login.requests) == 4
    nobody = HttpProxy(deliver={})
    results, recorder = asyncio.run(through(nobody, urls, hosts=one, proxy="http://127.0.0.1:9"))
    assert results == [ImageStatus.HOST_DOWN] * 4
    assert recorder.dialled == [("127.0.0.1", 9)] * 4


@pytest.mark.parametrize(
    "proxy",
    [
        "", "127.0.0.1:3128", "https://a:1", "socks5://a:1", "http://", "http://a:1/x", "http://[::1", "http://a:1#x",
        "http://a b:3", "http://a:0", "http://u[::1]@:1", "http://me:пароль@a:1", "http://me%3Ayou:secret@a:1",
        "http://me:%E2%98%83@a:1", "http://[v1.a]:1", "http://*:1",
    ],
)  # fmt: skip
def test_a_proxy_is_http_host_and_port(proxy: str) -> None:
    """Anything else is told at the start; and credentials stay out of what is printed."""
    with pytest.raises(ValueError, match=r"^proxy must be "):
        FetchLimits(proxy=proxy)
    FetchLimits(proxy="http://me:caf%C3%A9%3A@[::1]:3128/")
    assert "secret" not in repr(FetchLimits(proxy="http://me:secret@127.0.0.1:3128"))
