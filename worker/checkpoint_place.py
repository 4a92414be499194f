"""Where it is told which checkpoint to use: a file that is replaced, or a key of Redis that names a file."""

import asyncio
import logging
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from model.captions import harmless
from worker.metrics import Metrics
from worker.own_thread import OwnThread
from worker.redis_client import code_of

log = logging.getLogger("nametag.checkpoints")

MAX_PATH_BYTES = 4096
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Named:
    """A checkpoint's file, as it was when it was named: replaced or written to, it is another."""

    path: Path
    state: tuple[int, int, int]


class CheckpointPlace(Protocol):
    """Tells which checkpoint to use."""

    async def look(self) -> Named | None:
        """What is named now; None where nothing is, or nobody can say."""

    async def close(self) -> None:
        """Let go of connections."""


class WatchedFile:
    """The file itself, or what it links to. Where it isn't there, nothing is named.

    `at_restart` is the settings' checkpoint.
    """

    def __init__(self, path: Path, *, at_restart: Path) -> None:
        self._path = path
        self._at_restart = at_restart
        self._was_there = False
        self._disk = OwnThread("checkpoint-watch")

    async def look(self) -> Named | None:
        """The file as it is now."""
        named, reason = await self._disk.call(partial(_named, self._path))
        if named is None and self._was_there:
            _tell_gone(self._at_restart, file=str(self._path), reason=reason)
        self._was_there = named is not None
        return named

    async def close(self) -> None:
        """Look no more; a disk that doesn't answer isn't waited for."""
        self._disk.end()


class WatchedKey:
    """A key of Redis, whose value is the path of a file on this machine. Redis away: nothing changes.

    A path of no file is told, and counted as refused, once. `at_restart` is the settings' checkpoint.
    """

    def __init__(
        self, client: Redis | RedisCluster, key: str, metrics: Metrics, *, at_restart: Path, timeout_seconds: float
    ) -> None:
        self._client = client
        self._key = key
        self._metrics = metrics
        self._at_restart = at_restart
        self._timeout_seconds = timeout_seconds
        self._is_away = False
        self._there = ""
        """The last path with a file, until that or the key is gone."""
        self._missing = ""
        """The path without a file that was told last, until there is one."""
        self._disk = OwnThread("checkpoint-watch")

    async def look(self) -> Named | None:
        """The file that the key names now."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # No more than a path, whatever somebody has put there.
                value = await self._client.getrange(self._key, 0, MAX_PATH_BYTES - 1)
        except (RedisError, OSError, TimeoutError) as error:
            if not self._is_away:
                told = {"key": self._key, "error": type(error).__name__, "said": code_of(error)}
                log.warning("checkpoint_key_away", extra=told)
            self._is_away = True
            return None
        self._is_away = False
        text = (value if isinstance(value, bytes) else b"").decode("utf-8", "replace").strip()
        named, reason = await self._disk.call(partial(_named, Path(text))) if text else (None, "the key isn't set")
        if named is not None:
            self._there, self._missing = text, ""
            return named
        if self._there and text in ("", self._there):
            _tell_gone(self._at_restart, key=self._key, file=harmless(self._there), reason=reason)
            self._there = ""
        elif text and text != self._missing:
            self._refuse(text, reason)
        self._missing = text
        return None

    async def close(self) -> None:
        """Disconnect."""
        self._disk.end()
        await self._client.aclose()

    def _refuse(self, text: str, reason: str) -> None:
        self._metrics.checkpoint_changes.labels("refused").inc()
        extra = {
            "key": self._key,
            "file": harmless(text),
            "reason": reason,
            "next": "set the key to the absolute path of a checkpoint on this machine; the one in use stays until then",
        }
        log.error("checkpoint_missing", extra=extra)


def check_is_file(path: Path) -> None:
    """Raise a ValueError for what is no file of a checkpoint's size: reading a pipe or a device may never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size == 0:
        # So are those of the kernel in /proc, which may not end either.
        raise ValueError("it is empty")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"it has more than {MAX_FILE_BYTES >> 30} GiB")


def _named(path: Path) -> tuple[Named | None, str]:
    """The file; or None, and why."""
    try:
        found = path.stat()
    except OSError as error:
        return None, error.strerror or type(error).__name__
    except ValueError as error:
        return None, str(error)
    return Named(path, (found.st_ino, found.st_size, found.st_mtime_ns)), ""


def _tell_gone(at_restart: Path, **told: str) -> None:
    what = f"the checkpoint in use stays; a restart begins with {at_restart.name}, unless one is named again by then"
    log.warning("checkpoint_name_gone", extra={**told, "next": what})
