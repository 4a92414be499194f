"""Whether Redis can be had, and does what the cache asks of it: name, port, TLS, login, room, rights, the time."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from consumers.checks import Check, Checklist, Found, Trouble, Untold, ok
from consumers.kafka_cluster_checks import compare_clocks
from consumers.network_checks import Server, Trust, resolve, shake_hands, speaks_tls, take_connection
from worker.redis_client import SENTINEL_PORT, WrongUrl, make_client
from worker.settings import RedisTable
from worker.settings_report import mask
from worker.watch_checks import watched_key

ASK_SECONDS = 3.0
LOOK = "look at the log of Redis, and at what stands between"
LOGIN_FIX = "correct user and password in redis.url"


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
    if redis.url is None:
        checklist.skip("redis", "redis.url is not set: the cache is kept in memory")
        if watch_key is not None:
            fix = "set redis.url, or checkpoints.watch in place of checkpoints.watch_key"
            seen = "checkpoints.watch_key is a key of Redis, and redis.url is not set"
            checklist.add(Check("redis.watch_key", "fail", seen, fix, cause="redis.watch_key"))
        return checklist.checks
    url = redis.url.get_secret_value()
    form = checklist.do("redis.url", lambda: _url(redis), late=LOOK)
    if form.state == "fail":
        checklist.add(Check("redis.login", "skipped", "not tried, for redis.url failed", cause="redis.url"))
        return checklist.checks
    reached = _check_way(redis, url, checklist)
    login = checklist.do("redis.login", lambda: _run(redis, _login(redis, url)), needs=reached, late=LOOK)
    needs = (login,)
    checklist.do("redis.rights", lambda: _run(redis, _rights), needs=needs, late=LOOK)
    if watch_key is not None:
        checklist.do("redis.watch_key", lambda: _run(redis, watched_key(watch_key)), needs=needs, late=LOOK)
    checklist.do("redis.memory", lambda: _run(redis, _memory), needs=needs, late=LOOK)
    checklist.do("redis.clock", lambda: _run(redis, _clock), needs=needs, late=LOOK)
    return checklist.checks


def _url(redis: RedisTable) -> Found:
    """The client's own opinion of it. It connects to nothing yet."""
    try:
        asyncio.run(_with_client(redis, _nothing))
    except WrongUrl as error:
        raise Trouble(f"redis.url {error}", "correct redis.url, or redis.sentinels") from None
    except (ValueError, TypeError):
        # Without the cause, which quotes the URL and the password in it.
        raise Trouble(
            "redis.url is no URL of a Redis, such as redis://user:password@host:6379/0 (rediss:// for TLS)",
            "correct redis.url; in a password, write / ? # @ and : as %2F %3F %23 %40 and %3A",
        ) from None
    return ok(str(mask(redis.url)))


async def _nothing(_client: Any) -> Found:
    return ok("")


def _check_way(redis: RedisTable, url: str, checklist: Checklist) -> tuple[Check, ...]:
    """The checks of name, port and TLS; those that a login needs."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return (checklist.do("redis.socket", lambda: _socket(parts.path), late=LOOK),)
    if redis.sentinels:
        # Any one of them is enough, and the client asks them all.
        servers = [Server.parse(each, SENTINEL_PORT, "redis.sentinels") for each in redis.sentinels]
        for server in servers:
            dns = checklist.do("redis.dns", lambda server=server: resolve(server), late=LOOK)  # type: ignore[misc]
            checklist.do("redis.tcp", lambda server=server: take_connection(server), needs=(dns,), late=LOOK)  # type: ignore[misc]
        return ()
    server = Server(parts.hostname or "localhost", parts.port or 6379, "redis.url")
    dns = checklist.do("redis.dns", lambda: resolve(server), late="look at the way to the name server")
    tcp = checklist.do("redis.tcp", lambda: take_connection(server), needs=(dns,), late=LOOK)
    if parts.scheme != "rediss":
        return dns, tcp, checklist.skip("redis.tls", "redis.url says redis://")
    return dns, tcp, checklist.do("redis.tls", lambda: shake_hands(server, _trust(url)), needs=(tcp,), late=LOOK)


def _socket(path: str) -> Found:
    if not Path(path).is_socket():
        raise Trouble(f"there is no socket {path}", "start Redis with that unixsocket, or correct redis.url")
    if not os.access(path, os.R_OK | os.W_OK):
        raise Trouble(f"the socket {path} may not be used", "let this user read and write it (unixsocketperm)")
    return ok(f"the socket {path} is there")


def _trust(url: str) -> Trust:
    options: dict[str, Any] = dict(parse_url(url))
    return Trust(
        cafile=options.get("ssl_ca_certs"),
        certfile=options.get("ssl_certfile"),
        keyfile=options.get("ssl_keyfile"),
        checks_name=str(options.get("ssl_check_hostname", True)).lower() not in ("false", "0", "no"),
        checks_certificate=str(options.get("ssl_cert_reqs", "required")).lower() != "none",
        cafile_setting="ssl_ca_certs=… in redis.url",
        certfile_setting="ssl_certfile=… in redis.url",
        no_tls_fix="name the port of Redis that speaks TLS, or write redis:// in redis.url",
    )


def _run(redis: RedisTable, ask: Callable[[Any], Awaitable[Found]]) -> Found:
    return asyncio.run(_with_client(redis, ask))


async def _with_client(redis: RedisTable, ask: Callable[[Any], Awaitable[Found]]) -> Found:
    """Ask by a client as the worker has it, with more patience."""
    assert redis.url is not None
    client = make_client(
        redis.url.get_secret_value(),
        is_cluster=redis.cluster,
        sentinels=redis.sentinels,
        timeout_seconds=ASK_SECONDS,
        max_connections=2,
    )
    try:
        return await ask(client)
    finally:
        await client.aclose()


def _login(redis: RedisTable, url: str) -> Callable[[Any], Awaitable[Found]]:
    async def ask(client: Any) -> Found:
        try:
            await client.ping()
        except Exception as error:
            raise _refused(error, url) from None
        began = time.monotonic()
        await client.ping()
        took = time.monotonic() - began
        if took > redis.timeout_seconds:
            return Found(
                "warn",
                f"Redis takes {took:.2f} s for an answer, and the cache waits {redis.timeout_seconds:g} s",
                "have Redis nearer, or raise redis.timeout_seconds",
            )
        return ok(f"Redis takes the login, and answers within {took * 1000:.1f} ms")

    return ask


def _refused(error: Exception, url: str) -> Exception:
    """What is wrong, by the kind of the client's error; its words may quote the URL."""
    if isinstance(error, MasterNotFoundError):
        return Trouble(
            "no sentinel knows a master of the name that redis.url has for its host",
            "correct redis.sentinels, or the name in redis.url",
        )
    if isinstance(error, NoPermissionError):
        return Trouble("Redis does not let this user PING", "allow the user +ping (ACL SETUSER)")
    if isinstance(error, BusyLoadingError):
        return Trouble("Redis is still loading its data", "wait until it has")
    if isinstance(error, AuthenticationError) or "HELLO must be called" in str(error):
        return Trouble("Redis refuses the login", LOGIN_FIX)
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return Trouble("Redis has no database of that number", "correct the number at the end of redis.url")
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        return Trouble("Redis takes the connection, and says nothing", LOOK)
    parts = urlsplit(url)
    if parts.scheme == "redis" and parts.hostname:
        server = Server(parts.hostname, parts.port or 6379, "redis.url")
        if speaks_tls(server):
            return Trouble(f"{server} speaks TLS", "write rediss:// in redis.url")
    if isinstance(error, RedisError | OSError):
        return Trouble(f"what answers speaks no Redis ({type(error).__name__})", "name a Redis in redis.url")
    return error


async def _rights(client: Any) -> Found:
    """Every command of the cache, on keys that nobody else has, gone a second later in any case."""
    value, names = (f"nametag:doctor:{uuid4().hex}:{kind}" for kind in ("value", "names"))
    commands: tuple[tuple[Any, ...], ...] = (
        ("SET", value, b"x", "PX", 1000),
        ("GET", value),
        ("ZADD", names, 1, "a"),
        ("PEXPIRE", names, 1000),
        ("ZCARD", names),
        ("ZREMRANGEBYRANK", names, 0, -2),
        ("ZREMRANGEBYSCORE", names, 0, 0),
        ("ZREM", names, "a"),
        ("DEL", value),
    )
    refused: list[str] = []
    for command in commands:
        try:
            await client.execute_command(*command)
        except NoPermissionError:
            refused.append(command[0].lower())
        except ReadOnlyError:
            raise Trouble("Redis is a replica, and takes no writes", "name the master in redis.url") from None
        except OutOfMemoryError:
            fix = "set maxmemory-policy to allkeys-lru, or raise maxmemory"
            raise Trouble("Redis is full, and takes no writes", fix) from None
    if refused:
        rules = " ".join(f"+{name}" for name in refused)
        raise Trouble(
            f"Redis does not let this user {', '.join(refused)} on nametag:*",
            f"ACL SETUSER the user ~nametag:* {rules}",
        )
    return ok("all that the cache does is allowed on nametag:*")


async def _memory(client: Any) -> Found:
    try:
        info: dict[str, Any] = await client.info("memory")
    except (NoPermissionError, ResponseError):
        raise Untold("Redis does not tell this user (INFO)") from None
    if "maxmemory" not in info:
        # Of a cluster each node has its own.
        info = next((each for each in info.values() if isinstance(each, dict)), {})
    if "maxmemory" not in info or "maxmemory_policy" not in info:
        raise Untold("Redis does not tell how much it may keep")
    most, policy = int(info["maxmemory"]), str(info["maxmemory_policy"])
    if most and policy == "noeviction":
        return Found(
            "warn",
            f"Redis keeps {most / 2**20:.0f} MiB at most, and takes nothing more when it is full (noeviction)",
            "set its maxmemory-policy to allkeys-lru",
        )
    if not most:
        return ok(f"Redis has no maxmemory ({policy})")
    return ok(f"Redis keeps {most / 2**20:.0f} MiB at most ({policy})")


async def _clock(client: Any) -> Found:
    before = time.time()
    try:
        answer = await client.time()
    except (NoPermissionError, ResponseError):
        raise Untold("Redis does not tell this user the time (TIME)") from None
    after = time.time()
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))
    seconds, microseconds = answer
    return compare_clocks(int(seconds) + int(microseconds) / 1e6, before, after, "that of Redis")
