"""The cache on each kind of Redis that a URL and the settings can name: TLS, ACL, cluster, sentinels."""

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.native import give_up, native_services
from worker.cache import CacheLimits, RedisCache

# Without the memory that would stand in for it.
LIMITS = CacheLimits(timeout_seconds=1.0, failures_to_open=1000, spare_bytes=0)


@contextmanager
def redis_with(*words: str, config: str = "") -> Iterator[Any]:
    """A redis-server with further words on its command line, or with a configuration file before them.

    `{extra}` in a word is a second free port.
    """
    services = native_services()

    class Variant(services.NativeRedis):  # type: ignore[misc] # a module loaded by its path has no types
        def _prepare(self, folder: Path) -> None:
            super()._prepare(folder)
            # At the same time, so that they differ.
            self._port, self.extra = services._free_ports(2)

        def _command(self, folder: Path) -> list[str]:
            name, *plain = super()._command(folder)
            last = [word.format(extra=self.extra) for word in words]
            if not config:
                return [name, *plain, *last]
            (folder / "redis.conf").write_text(config)
            return [name, str(folder / "redis.conf"), *plain[:4], "--dir", str(folder), *last]

        @property
        def port(self) -> int:
            return int(self._port)

    try:
        server = Variant()
        server.start()
    except services.ServiceUnavailable as error:
        give_up(str(error))
    try:
        yield server
    finally:
        server.stop()


def works(url: str, *, keys: Sequence[str] = ("a", "b", "c"), **kind: Any) -> list[str]:
    """Put and get a value under each key; gives what the cache told on the way."""
    events: list[str] = []

    async def scenario() -> None:
        cache = RedisCache(url, LIMITS, on_event=events.append, **kind)
        for key in keys:
            await cache.set(key, key.encode(), 60)
            assert await cache.get(key) == key.encode(), events
            # What deletes ask for, too.
            await cache.keep(f"{key}:kept", b"x", 60)
            assert await cache.recall(f"{key}:kept") == b"x"
            # On several nodes of a cluster.
            many = [f"{key}:{number}" for number in range(20)]
            assert await cache.recall_all([*many, f"{key}:kept"]) == [None] * 20 + [b"x"]
            await cache.add(f"{key}:set", "member", 60)
            assert await cache.remove(f"{key}:set", "other") == 1
            await cache.delete([f"{key}:kept", f"{key}:set"])
            assert await cache.remove(f"{key}:set", "member") == 0
        await cache.close()

    asyncio.run(scenario())
    return events


def test_tls_is_spoken_and_certificates_are_checked(tmp_path: Path) -> None:
    """`rediss://` with an authority that is trusted works; one that isn't is trouble, and no plain text."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    words = ("--tls-port", "{extra}", "--tls-cert-file", certificate, "--tls-key-file", key)
    with redis_with(*words, "--tls-auth-clients", "no") as server:
        url = f"rediss://127.0.0.1:{server.extra}/0"
        assert set(works(f"{url}?ssl_ca_certs={certificate}")) == {"hit"}
        with pytest.raises(AssertionError, match="error"):
            works(url)


def test_a_user_of_the_acl_needs_no_more_than_his_keys() -> None:
    """These commands, and the connection's own, on nametag's keys are all that the cache asks for."""
    commands = ("get", "set", "del", "pexpire", "zadd", "zcard", "zrem", "zremrangebyrank", "zremrangebyscore")
    connection = ("client", "hello", "ping", "select")
    rules = ("on", ">s%cret", "~nametag:*", *(f"+{name}" for name in (*commands, *connection)))
    with redis_with("--user", "tagger", *rules) as server:
        url = f"redis://tagger:s%25cret@127.0.0.1:{server.port}/0"
        assert set(works(url, keys=["nametag:a", "nametag:b"])) == {"hit"}
        with pytest.raises(AssertionError, match="refused"):
            works(url, keys=["elsewhere"])


def test_a_full_redis_is_still_read(caplog: pytest.LogCaptureFixture) -> None:
    """It takes nothing more, which is told once; what it has is had, and it isn't bypassed."""
    events: list[str] = []

    async def scenario(url: str) -> None:
        cache = RedisCache(url, CacheLimits(timeout_seconds=1.0, failures_to_open=2), on_event=events.append)
        await cache.set("early", b"value", 60)
        for number in range(20):
            await cache.set(f"k{number}", b"x" * 200_000, 60)
        assert await cache.get("early") == b"value"
        await cache.close()

    with redis_with("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as server:
        asyncio.run(scenario(server.address))
    assert events.count("refused") > 5
    assert events[-1] == "hit"
    told = [record for record in caplog.records if record.name == "nametag.cache"]
    assert [record.getMessage() for record in told] == ["cache_refuses"]
    assert (vars(told[0])["error"], vars(told[0])["said"]) == ("OutOfMemoryError", "OOM")


def bypassed(url: str, caplog: pytest.LogCaptureFixture, **kind: Any) -> tuple[str, str | None]:
    """Write until Redis is bypassed; which error the log then tells, and what Redis said."""

    async def scenario() -> None:
        cache = RedisCache(url, CacheLimits(timeout_seconds=0.5, failures_to_open=3), **kind)
        for _ in range(3):
            await cache.set("k", b"v", 60)
        await cache.close()

    caplog.clear()
    asyncio.run(scenario())
    (record,) = [vars(each) for each in caplog.records if each.message == "cache_bypassed"]
    return record["error"], record["said"]


@pytest.mark.parametrize("is_cluster", [False, True])
def test_what_a_redis_answered_is_told(is_cluster: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its code, also where a client of clusters makes an error of its own of it; no word of the rest."""
    with redis_with("--user", "tagger", "on", ">right", "~*", "+@all") as server:
        _, said = bypassed(f"redis://tagger:secret@127.0.0.1:{server.port}/0", caplog, is_cluster=is_cluster)
    assert said == "WRONGPASS"
    assert "secret" not in str([vars(each) for each in caplog.records])


def test_a_redis_that_can_not_save_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It takes no writes then, and says MISCONF."""
    (tmp_path / "gone").mkdir()
    with redis_with("--dir", str(tmp_path / "gone"), "--save", "1", "1") as server:
        redis = Redis(port=server.port)
        (tmp_path / "gone").rmdir()
        redis.set("a", "b")
        deadline = time.monotonic() + 20
        while redis.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert bypassed(server.address, caplog) == ("ResponseError", "MISCONF")


def test_what_was_said_is_told_though_the_last_call_timed_out(caplog: pytest.LogCaptureFixture) -> None:
    """As where a protected Redis says so once, and then nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if not kept:
                    connection.sendall(b"-DENIED Redis is running in protected mode because secret\r\n")
                kept.append(connection)

        threading.Thread(target=answer, daemon=True).start()
        found = bypassed(f"redis://127.0.0.1:{server.getsockname()[1]}/0", caplog)
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()
    assert found == ("TimeoutError", "DENIED")
    assert "secret" not in str([vars(each) for each in caplog.records])


def test_a_cluster_is_asked_where_the_key_is() -> None:
    """Two servers with half of the slots each; the URL names one of them."""
    # Their bus is 10,000 ports further, where that isn't said: beyond the last one, for some.
    cluster = ("--cluster-enabled", "yes", "--cluster-port", "{extra}")
    with redis_with(*cluster) as first, redis_with(*cluster) as second:
        clients = [Redis(port=server.port) for server in (first, second)]
        clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", second.port, second.extra)
        until(lambda: all(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for client in clients))
        keys = [f"nametag:{n}" for n in range(50)]
        assert set(works(f"redis://127.0.0.1:{first.port}", keys=keys, is_cluster=True)) == {"hit"}
        assert all(client.dbsize() for client in clients)
        for client in clients:
            client.close()


def test_sentinels_name_the_master_and_the_next_one() -> None:
    """The URL's host is the service's name. When the master dies, the cache goes on with its successor."""
    with redis_with() as master, redis_with("--replicaof", "127.0.0.1", str(master.port)) as replica:
        config = (
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
        )
        direct = Redis(port=replica.port)
        until(lambda: direct.info("replication")["master_link_status"] == "up")
        with redis_with("--sentinel", config=config) as sentinel:
            watcher = Redis(port=sentinel.port)
            until(lambda: watcher.execute_command("SENTINEL", "REPLICAS", "mymaster"))
            asyncio.run(survives(f"127.0.0.1:{sentinel.port}", master))
            watcher.close()
        direct.close()


async def survives(sentinel: str, master: Any) -> None:
    """The master goes, and within some seconds values are kept again."""
    limits = CacheLimits(timeout_seconds=1.0, failures_to_open=3, open_seconds=0.2, spare_bytes=0)
    cache = RedisCache("redis://mymaster/0", limits, sentinels=[sentinel])
    await cache.set("k", b"before", 60)
    assert await cache.get("k") == b"before"
    master.end()
    deadline = time.monotonic() + 30
    while await cache.get("k") != b"after":
        assert time.monotonic() < deadline
        await cache.set("k", b"after", 60)
        await asyncio.sleep(0.1)
    await cache.close()


def until(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("sentinels", [["host:0"], [":26379"], ["host:port"]])
def test_what_is_no_sentinel_is_told(sentinels: list[str]) -> None:
    """Before anything is connected to."""
    with pytest.raises(ValueError, match="host:port of a sentinel"):
        RedisCache("redis://mymaster", CacheLimits(), sentinels=sentinels)
