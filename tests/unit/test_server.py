"""The worker's own server."""

import asyncio
import json
import socket

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, generate_latest

from worker.access import Access
from worker.errors import SettingsError
from worker.metrics import Metrics
from worker.server import ServerConfig, serve
from worker.settings_loading import load_settings


def test_health_readiness_and_metrics() -> None:
    """/healthz is always ok, /readyz says what the pipeline lacks, /metrics is what Prometheus reads."""
    reason: str | None = "starting"
    metrics = Metrics()
    metrics.posts.labels("event").inc(3)
    metrics.stages.labels("tag").observe(1)

    async def scenario() -> None:
        nonlocal reason
        async with (
            serve(ServerConfig(port=0), metrics, lambda: reason) as address,
            aiohttp.ClientSession(address) as client,
        ):
            assert (await client.get("/healthz")).status == 200
            waiting = await client.get("/readyz")
            assert (waiting.status, await waiting.text()) == (503, "not ready: starting\n")
            reason = None
            ready = await client.get("/readyz")
            assert (ready.status, await ready.text()) == (200, "ready\n")
            told = await (await client.get("/metrics")).text()
        assert 'nametag_posts_total{outcome="event"} 3.0' in told
        assert "nametag_stage_seconds_count" in told
        # When a series was made is no gauge of anybody's; another registry of the process keeps it.
        assert "_created" not in told
        others = CollectorRegistry()
        Counter("of_a_stranger", "Not ours.", registry=others)
        assert b"of_a_stranger_created" in generate_latest(others)

    asyncio.run(scenario())


def test_a_taken_port_is_said() -> None:
    """A port in use ends in a sentence that names it and the setting."""

    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(SettingsError, match=rf"{port}.*server\.port"):
                async with serve(ServerConfig(port=port), Metrics(), lambda: None):
                    pass

    asyncio.run(scenario())


TOKEN = "a-token-of-the-tests"


class Page:
    """Stands for the page and for what is posted to."""

    def add_to(self, app: web.Application) -> None:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text="in")

        app.router.add_get("/live", answer)
        app.router.add_post("/tag", answer)


def ask(*requests: tuple[str, str, dict[str, str]], token: str | None = None, host: str = "127.0.0.1") -> list[int]:
    """The statuses of requests: method, path, headers."""

    async def scenario() -> list[int]:
        statuses = []
        config = ServerConfig(host=host, port=0, token=token)
        async with (
            serve(config, Metrics(), lambda: None, [Page()]) as address,
            aiohttp.ClientSession(address) as client,
        ):
            for method, path, headers in requests:
                async with client.request(method, path, headers=headers, allow_redirects=False) as response:
                    statuses.append(response.status)
        return statuses

    return asyncio.run(asyncio.wait_for(scenario(), 20))


def test_without_a_token_only_own_names_are_answered() -> None:
    """A stranger's name that leads to loopback is refused; addresses and localhost aren't, nor probes by any name."""
    own = [("GET", "/live", {"Host": host}) for host in ("localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST")]
    strange = [("GET", "/live", {"Host": host}) for host in ("evil.example", "localhost.evil.example", "", "[::")]
    probes = [("GET", path, {"Host": "worker"}) for path in ("/healthz", "/readyz", "/metrics")]
    assert ask(*own) == [200] * 4
    # aiohttp refuses a host that can't be one by itself.
    assert all(status in (400, 403) for status in ask(*strange))
    assert ask(*probes) == [200] * 3


def test_a_host_is_a_name_or_an_address_and_a_port() -> None:
    """With anything else a parser that means well would find a name of ours in it."""
    own = Access(None, "Worker_1.example")._is_own_name
    for host in ("localhost", "worker_1.example:9464", "127.0.0.1:1", "[::1]:80", "LocalHost:65535"):
        assert own(host), host
    for host in (
        "evil.example@localhost", "a:b@127.0.0.1", "@localhost", "localhost/evil.example", "localhost?evil",
        "localhost#evil", "localhost\\evil", "localhost:80:80", "localhost:x", "localhost ", " localhost",
        "local\thost", "localhost\n", "localhost,evil.example", "[::1", "::1", "[localhost]", "[::1]evil", "",
    ):  # fmt: skip
        assert not own(host), host


@pytest.mark.parametrize("token", [None, TOKEN])
def test_another_sites_page_is_refused(token: str | None) -> None:
    """By Sec-Fetch-Site, and where a browser has none by Origin; a visit by a link is let in, and no browser asked."""
    bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "localhost:9464"}
    cases = [
        ("POST", "/tag", {"Origin": "https://evil.example"}),
        ("POST", "/tag", {"Origin": "null"}),
        ("POST", "/tag", {"Origin": "http://localhost:9465"}),
        ("POST", "/tag", {"Sec-Fetch-Site": "cross-site"}),
        ("POST", "/tag", {"Sec-Fetch-Site": "same-site"}),
        ("GET", "/live", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
        ("POST", "/tag", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
        ("GET", "/live", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}),
        ("POST", "/tag", {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:9464"}),
        ("POST", "/tag", {}),
    ]
    statuses = ask(*((method, path, {**bearer, **headers}) for method, path, headers in cases), token=token)
    assert statuses == [403] * 7 + [200] * 3


def test_a_token_is_needed_for_all_but_health_and_metrics() -> None:
    """Without it, or with another, it is 401; with it any host name will do."""
    right, wrong = {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}x"}
    assert ask(*(("GET", path, {}) for path in ("/healthz", "/readyz", "/metrics")), token=TOKEN) == [200] * 3
    assert ask(("GET", "/live", {}), ("POST", "/tag", {}), ("GET", "/else", {}), token=TOKEN) == [401] * 3
    assert ask(("GET", "/live", wrong), ("POST", "/tag", wrong), token=TOKEN) == [401] * 2
    assert ask(("GET", "/live", {"Authorization": "Bearer \xfc"}), token=TOKEN) == [401]
    named = {**right, "Host": "worker.example"}
    assert ask(("GET", "/live", right), ("POST", "/tag", named), ("GET", "/else", right), token=TOKEN) == [
        200,
        200,
        404,
    ]


def test_a_browser_exchanges_the_token_for_a_cookie(caplog: pytest.LogCaptureFixture) -> None:
    """By the address or by the form; the cookie isn't the token, no script reads it, and no log has either."""

    async def scenario() -> None:
        config = ServerConfig(port=0, token=TOKEN)
        async with serve(config, Metrics(), lambda: None, [Page()]) as address:
            for by_form in (False, True):
                jar = aiohttp.CookieJar(unsafe=True)
                async with aiohttp.ClientSession(address, cookie_jar=jar) as client:
                    wrong = await client.get("/live?token=wrong")
                    assert wrong.status == 401
                    assert 'type="password"' in await wrong.text()
                    assert "'sha256-" in wrong.headers["Content-Security-Policy"]
                    if by_form:
                        answer = await client.post("/live/session", data={"token": TOKEN}, allow_redirects=False)
                    else:
                        answer = await client.get("/live", params={"token": TOKEN}, allow_redirects=False)
                    assert (answer.status, answer.headers["Location"]) == (303, "/live")
                    cookie = answer.headers["Set-Cookie"]
                    assert TOKEN not in cookie
                    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
                    assert (await client.get("/live")).status == 200
                    again = await client.get("/live", params={"token": TOKEN}, allow_redirects=False)
                    assert again.status == 303
                    until, _, proof = answer.cookies["nametag_session"].value.partition(".")
                for forged in (f"{int(until) + 1}.{proof}", f"1.{proof}", f"{until}.", "x", f"{until}.{proof}é"):
                    headers = {"Cookie": f"nametag_session={forged}"}
                    async with aiohttp.ClientSession(address, headers=headers) as client:
                        assert (await client.get("/live")).status == 401

    with caplog.at_level("DEBUG"):
        asyncio.run(asyncio.wait_for(scenario(), 20))
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(ServerConfig(token=TOKEN))


def test_every_answer_has_the_headers_that_keep_a_page_safe() -> None:
    """What is found, what isn't, and what is refused: no script but our own, no sniffing, no referrer."""

    async def scenario() -> None:
        async with (
            serve(ServerConfig(port=0), Metrics(), lambda: None, [Page()]) as address,
            aiohttp.ClientSession(address) as client,
        ):
            for path, host in (("/live", "localhost"), ("/else", "localhost"), ("/live", "evil.example")):
                headers = (await client.get(path, headers={"Host": host})).headers
                policy = headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Server"] == "nametag"

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_open_server_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond loopback and without a token, a warning names the setting; on loopback, or with one, none does."""
    ask(token=None)
    ask(token=TOKEN, host="0.0.0.0")
    assert "server_open" not in caplog.text
    ask(token=None, host="0.0.0.0")
    assert "server_open" in caplog.text


@pytest.mark.parametrize("token", ["short", "sixteen and more", "sixteen-und-mehr-ä"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the setting, and doesn't quote it."""
    monkeypatch.setenv("NAMETAG_SERVER__TOKEN", token)
    with pytest.raises(SettingsError, match=r"server\.token") as caught:
        load_settings()
    assert token not in str(caught.value)


def test_every_error_is_json_with_one_sentence() -> None:
    """A path that isn't served, a method that isn't, a missing token: one shape, in UTF-8 as it is."""

    async def scenario() -> None:
        right = {"Authorization": f"Bearer {TOKEN}"}
        cases = [
            ("GET", "/else", right, 404, "try /live"),
            ("PUT", "/tag", right, 405, "PUT isn't answered here; use POST"),
            ("POST", "/healthz", {}, 405, "use GET, HEAD"),
            ("GET", "/else", {}, 401, "Bearer …"),
        ]
        config = ServerConfig(port=0, token=TOKEN)
        async with (
            serve(config, Metrics(), lambda: None, [Page()]) as address,
            aiohttp.ClientSession(address) as client,
        ):
            for method, path, headers, status, told in cases:
                async with client.request(method, path, headers=headers) as response:
                    body = await response.read()
                assert response.status == status
                assert response.headers["Content-Type"] == "application/json; charset=utf-8"
                assert list(json.loads(body)) == ["error"]
                assert told.encode() in body
                assert response.headers.get("Allow") == {"/tag": "POST", "/healthz": "GET, HEAD"}.get(
                    path if status == 405 else ""
                )

    asyncio.run(asyncio.wait_for(scenario(), 20))
