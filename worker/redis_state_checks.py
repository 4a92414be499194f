"""Whether a Redis that can be had does what is asked of it: rights, room, the marks of deletes, the time."""

import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from consumers.checks import Found, Trouble, Untold, ok
from consumers.kafka_cluster_checks import compare_clocks

NO_EVICTION = "noeviction"


async def cache_rights(client: Any) -> Found:
    """Every command of the cache, on keys that nobody else has, gone a second later in any case."""
    value, names = (f"nametag:doctor:{uuid4().hex}:{kind}" for kind in ("value", "names"))
    commands = (
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
    await _may(client, commands, "set maxmemory-policy to allkeys-lru, or raise maxmemory")
    return ok("all that the cache does is allowed on nametag:*")


async def mark_rights(client: Any) -> Found:
    """The two commands of the marks, likewise."""
    value = f"nametag:doctor:{uuid4().hex}:value"
    await _may(client, (("SET", value, b"x", "PX", 1000), ("GET", value)), "raise its maxmemory")
    return ok("all that the marks of deletes need is allowed on nametag:*")


async def _may(client: Any, commands: tuple[tuple[Any, ...], ...], full_fix: str) -> None:
    """Raise `Trouble` where not all of `commands` are done."""
    refused: list[str] = []
    for command in commands:
        try:
            await client.execute_command(*command)
        except NoPermissionError:
            refused.append(command[0].lower())
        except ReadOnlyError:
            raise Trouble("Redis is a replica, and takes no writes", "name the master in its URL") from None
        except OutOfMemoryError:
            raise Trouble("Redis is full, and takes no writes", full_fix) from None
    if refused:
        rules = " ".join(f"+{name}" for name in refused)
        raise Trouble(
            f"Redis does not let this user {', '.join(refused)} on nametag:*",
            f"ACL SETUSER the user ~nametag:* {rules}",
        )


async def cache_memory(client: Any) -> Found:
    """Whether it makes room for new pictures when it is full."""
    most, policy = await _room(client)
    if most and policy == NO_EVICTION:
        return Found(
            "warn",
            f"Redis keeps {most / 2**20:.0f} MiB at most, and takes nothing more when it is full (noeviction)",
            "set its maxmemory-policy to allkeys-lru",
        )
    if not most:
        return ok(f"Redis has no maxmemory ({policy})")
    return ok(f"Redis keeps {most / 2**20:.0f} MiB at most ({policy})")


def mark_memory(fix: str) -> Callable[[Any], Awaitable[Found]]:
    """Whether it keeps the marks of deletes when it is full. `fix`: what to do where it doesn't."""

    async def ask(client: Any) -> Found:
        most, policy = await _room(client)
        if not most:
            return ok(f"marks of deletes stay: Redis has no maxmemory ({policy})")
        if policy == NO_EVICTION:
            return ok(f"marks of deletes stay when Redis is full ({policy})")
        # Marks have a time to live, so that volatile-… takes them as well.
        return Found(
            "warn", f"Redis drops marks of deletes when it is full ({policy}): deleted posts may be tagged", fix
        )

    return ask


async def _room(client: Any) -> tuple[int, str]:
    """`maxmemory` in bytes, 0 for none, and the policy. INFO tells both, also where CONFIG is forbidden."""
    try:
        info: dict[str, Any] = await client.info("memory")
    except (NoPermissionError, ResponseError):
        raise Untold("Redis does not tell this user (INFO)") from None
    if "maxmemory" not in info:
        # Of a cluster each node has its own.
        info = next((each for each in info.values() if isinstance(each, dict)), {})
    if "maxmemory" not in info or "maxmemory_policy" not in info:
        raise Untold("Redis does not tell how much it may keep")
    return int(info["maxmemory"]), str(info["maxmemory_policy"])


async def clock(client: Any) -> Found:
    """Whether its clock is ours."""
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
