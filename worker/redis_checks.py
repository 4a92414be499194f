"""Whether Redis can be had: its URL, name, port, TLS, login, told apart; of the cache's, and of the marks' own."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError

from consumers.checks import Check, Checklist, Found, Trouble, ok
from consumers.network_checks import Server, Trust, resolve, shake_hands, speaks_tls, take_connection
from worker.redis_client import SENTINEL_PORT, WrongUrl, make_client
from worker.redis_state_checks import cache_memory, cache_rights, clock, mark_memory, mark_rights
from worker.settings import RedisTable
from worker.settings_report import mask
from worker.watch_checks import watched_key

ASK_SECONDS = 3.0
PINGS = 3
LOOK = "look at the log of Redis, and at what stands between"
SEPARATE_FIX = "set redis.deletes_url to a Redis whose maxmemory-policy is noeviction"
POLICY_FIX = "set its maxmemory-policy to noeviction"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Redis:
    """One Redis, what its checks are called, and the setting of its URL."""

    name: str
    setting: str
    secret: SecretStr
    timeout_seconds: float
    cluster: bool = False
    sentinels: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return self.secret.get_secret_value()


def check_redis(
    redis: RedisTable,
    *,
    watch_key: str | None = None,
    seconds: float,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> list[Check]:
    """All that the worker needs of Redis, within `seconds`. A key of our own is written and deleted, no other.

    `watch_key`: that of `checkpoints.watch_key`, where it is set.
    """
    checklist = Checklist(seconds, on_check)
    _check_cache(redis, watch_key, checklist)
    if redis.deletes_url is not None:
        _check_marks(redis, redis.deletes_url, checklist)
    return checklist.checks


def _check_cache(redis: RedisTable, watch_key: str | None, checklist: Checklist) -> None:
    if redis.url is None:
        checklist.skip("redis", "redis.url is not set: the cache is kept in memory")
        if watch_key is not None:
            fix = "set redis.url, or checkpoints.watch in place of checkpoints.watch_key"
            seen = "checkpoints.watch_key is a key of Redis, and redis.url is not set"
            checklist.add(Check("redis.watch_key", "fail", seen, fix, cause="redis.watch_key"))
        return
    place = _Redis(
        name="redis",
        setting="redis.url",
        secret=redis.url,
        timeout_seconds=redis.timeout_seconds,
        cluster=redis.cluster,
        sentinels=redis.sentinels,
    )
    login = _check_reach(place, checklist)
    needs = (login,)
    checklist.do("redis.rights", lambda: _run(place, cache_rights), needs=needs, late=LOOK)
    if watch_key is not None:
        checklist.do("redis.watch_key", lambda: _run(place, watched_key(watch_key)), needs=needs, late=LOOK)
    checklist.do("redis.memory", lambda: _run(place, cache_memory), needs=needs, late=LOOK)
    if redis.deletes_url is None:
        checklist.do("redis.deletes", lambda: _run(place, mark_memory(SEPARATE_FIX)), needs=needs, late=LOOK)
    checklist.do("redis.clock", lambda: _run(place, clock), needs=needs, late=LOOK)


def _check_marks(redis: RedisTable, url: SecretStr, checklist: Checklist) -> None:
    place = _Redis(name="deletes", setting="redis.deletes_url", secret=url, timeout_seconds=redis.timeout_seconds)
    login = _check_reach(place, checklist)
    checklist.do("deletes.rights", lambda: _run(place, mark_rights), needs=(login,), late=LOOK)
    checklist.do("deletes.memory", lambda: _run(place, mark_memory(POLICY_FIX)), needs=(login,), late=LOOK)


def _check_reach(redis: _Redis, checklist: Checklist) -> Check:
    """The checks up to the login, whose check it gives."""
    name = f"{redis.name}.login"
    form = checklist.do(redis.setting, lambda: _url(redis), late=LOOK)
    reached = (form,) if form.state == "fail" else _check_way(redis, checklist)
    return checklist.do(name, lambda: _run(redis, _login(redis)), needs=reached, late=LOOK)


def _url(redis: _Redis) -> Found:
    """The client's own opinion of it. It connects to nothing yet."""
    try:
        asyncio.run(_with_client(redis, _nothing))
    except WrongUrl as error:
        other = ", or redis.sentinels" if redis.sentinels else ""
        raise Trouble(f"{redis.setting} {error}", f"correct {redis.setting}{other}") from None
    except (ValueError, TypeError):
        # Without the cause, which quotes the URL and the password in it.
        raise Trouble(
            f"{redis.setting} is no URL of a Redis, such as redis://user:password@host:6379/0 (rediss:// for TLS)",
            f"correct {redis.setting}; in a password, write / ? # @ and : as %2F %3F %23 %40 and %3A",
        ) from None
    return ok(str(mask(redis.secret)))


async def _nothing(_client: Any) -> Found:
    return ok("")


def _check_way(redis: _Redis, checklist: Checklist) -> tuple[Check, ...]:
    """The checks of name, port and TLS; those that a login needs."""
    parts = urlsplit(redis.url)
    if parts.scheme == "unix":
        return (checklist.do(f"{redis.name}.socket", lambda: _socket(redis, parts.path), late=LOOK),)
    if redis.sentinels:
        # Any one of them is enough, and the client asks them all.
        servers = [Server.parse(each, SENTINEL_PORT, "redis.sentinels") for each in redis.sentinels]
        for server in servers:
            dns = checklist.do(f"{redis.name}.dns", lambda server=server: resolve(server), late=LOOK)  # type: ignore[misc]
            checklist.do(f"{redis.name}.tcp", lambda server=server: take_connection(server), needs=(dns,), late=LOOK)  # type: ignore[misc]
        return ()
    server = Server(parts.hostname or "localhost", parts.port or 6379, redis.setting)
    dns = checklist.do(f"{redis.name}.dns", lambda: resolve(server), late="look at the way to the name server")
    tcp = checklist.do(f"{redis.name}.tcp", lambda: take_connection(server), needs=(dns,), late=LOOK)
    if parts.scheme != "rediss":
        return dns, tcp, checklist.skip(f"{redis.name}.tls", f"{redis.setting} says redis://")
    return (
        dns,
        tcp,
        checklist.do(f"{redis.name}.tls", lambda: shake_hands(server, _trust(redis)), needs=(tcp,), late=LOOK),
    )


def _socket(redis: _Redis, path: str) -> Found:
    if not Path(path).is_socket():
        raise Trouble(f"there is no socket {path}", f"start Redis with that unixsocket, or correct {redis.setting}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise Trouble(f"the socket {path} may not be used", "let this user read and write it (unixsocketperm)")
    return ok(f"the socket {path} is there")


def _trust(redis: _Redis) -> Trust:
    options: dict[str, Any] = dict(parse_url(redis.url))
    return Trust(
        cafile=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
        checks_name=str(options.get("ssl_check_hostname", True)).lower() not in ("false", "0", "no"),
        checks_certificate=str(options.get("ssl_cert_reqs", "required")).lower() != "none",
        cafile_setting=f"ssl_ca_certs=… in {redis.setting}",
        certfile_setting=f"ssl_certfile=… in {redis.setting}",
        no_tls_fix=f"name the port of Redis that speaks TLS, or write redis:// in {redis.setting}",
    )


def _run(redis: _Redis, ask: Callable[[Any], Awaitable[Found]]) -> Found:
    return asyncio.run(_with_client(redis, ask))


async def _with_client(redis: _Redis, ask: Callable[[Any], Awaitable[Found]]) -> Found:
    """Ask by a client as the worker has it, with more patience."""
    client = make_client(
        redis.url,
        is_cluster=redis.cluster,
        sentinels=redis.sentinels,
        timeout_seconds=ASK_SECONDS,
        max_connections=2,
    )
    try:
        return await ask(client)
    finally:
        await client.aclose()


def _login(redis: _Redis) -> Callable[[Any], Awaitable[Found]]:
    async def ask(client: Any) -> Found:
        try:
            await client.ping()
        except Exception as error:
            raise _refused(error, redis) from None
        # One answer may be held up by whatever goes on at the moment.
        took = min([await _ping_seconds(client) for _ in range(PINGS)])
        if took > redis.timeout_seconds:
            return Found(
                "warn",
                f"Redis takes {took:.2f} s for the best of {PINGS} answers, and the worker waits "
                f"{redis.timeout_seconds:g} s",
                "have Redis nearer, or raise redis.timeout_seconds",
            )
        return ok(f"Redis takes the login, and answers within {took * 1000:.1f} ms")

    return ask


async def _ping_seconds(client: Any) -> float:
    began = time.monotonic()
    await client.ping()
    return time.monotonic() - began


def _refused(error: Exception, redis: _Redis) -> Exception:
    """What is wrong, by the kind of the client's error; its words may quote the URL."""
    if isinstance(error, MasterNotFoundError):
        return Trouble(
            f"no sentinel knows a master of the name that {redis.setting} has for its host",
            f"correct redis.sentinels, or the name in {redis.setting}",
        )
    if isinstance(error, NoPermissionError):
        return Trouble("Redis does not let this user PING", "allow the user +ping (ACL SETUSER)")
    if isinstance(error, BusyLoadingError):
        return Trouble("Redis is still loading its data", "wait until it has")
    if isinstance(error, AuthenticationError) or "HELLO must be called" in str(error):
        return Trouble("Redis refuses the login", f"correct user and password in {redis.setting}")
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return Trouble("Redis has no database of that number", f"correct the number at the end of {redis.setting}")
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return Trouble("Redis takes the connection, and says nothing", LOOK)
    parts = urlsplit(redis.url)
    if parts.scheme == "redis" and parts.hostname:
        server = Server(parts.hostname, parts.port or 6379, redis.setting)
        if speaks_tls(server):
            return Trouble(f"{server} speaks TLS", f"write rediss:// in {redis.setting}")
    if isinstance(error, RedisError | OSError):
        return Trouble(f"what answers speaks no Redis ({type(error).__name__})", f"name a Redis in {redis.setting}")
    return error
