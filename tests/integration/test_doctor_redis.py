"""`nametag doctor` against real Redis servers: logins, rights, room, TLS, sentinels, a cluster."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis import Redis

from consumers.checks import Check
from tests.certificates import Authority
from tests.faults.redis_proxy import LATE_SECONDS, RedisProxy
from tests.integration.test_redis_kinds import redis_with
from worker.redis_checks import check_redis
from worker.settings import RedisTable


class SlowOnce(RedisProxy):
    """Holds the first answer up that is timed: that to the second PING, for the first is the login's."""

    pongs = 0

    def _chosen(self, reply: bytes) -> bytes:
        if reply == b"+PONG\r\n":
            self.pongs += 1
            if self.pongs == 2:
                time.sleep(LATE_SECONDS)
        return super()._chosen(reply)


def redis(url: str, **fields: Any) -> dict[str, Check]:
    return {check.name: check for check in check_redis(RedisTable(url=url, **fields), seconds=20)}


def test_a_redis_is_left_as_it_was(redis_url: str) -> None:
    """All is well, and no key of the doctor's is left a second later."""
    found = redis(redis_url)
    assert {check.state for check in found.values()} <= {"ok", "skipped"}
    assert found["redis.clock"].state == found["redis.rights"].state == "ok"
    with Redis.from_url(redis_url) as client:
        deadline = time.monotonic() + 5
        while list(client.scan_iter("nametag:doctor:*")):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_slow_redis_is_told_and_one_slow_answer_is_not() -> None:
    """The best of three answers counts."""
    with redis_with() as server:
        late = RedisProxy(server.port)
        late.mode = "late"
        once = SlowOnce(server.port)
        try:
            slow = redis(late.url, timeout_seconds=LATE_SECONDS / 2)["redis.login"]
            well = redis(once.url, timeout_seconds=LATE_SECONDS / 2)["redis.login"]
        finally:
            late.close()
            once.close()
    assert (slow.state, slow.fix) == ("warn", "have Redis nearer, or raise redis.timeout_seconds")
    assert well.state == "ok"
    assert once.pongs >= 4


def test_logins_and_rights_of_redis_are_told() -> None:
    """No password, a wrong one, a user with too few rights, and one with all; no secret is shown."""
    commands = ("get", "set", "del", "pexpire", "zadd", "zcard", "zrem", "zremrangebyrank", "zremrangebyscore")
    connection = ("client", "hello", "ping", "select")
    full = ("on", ">hush", "~nametag:*", *(f"+{name}" for name in (*commands, *connection)))
    weak = ("on", ">hush", "~nametag:*", *(f"+{name}" for name in ("get", *connection)))
    with redis_with("--user", "full", *full, "--user", "weak", *weak) as server, Redis(port=server.port) as admin:
        # Set now, for the fixture's own PING has no password.
        admin.config_set("requirepass", "secret")
        address = f"127.0.0.1:{server.port}/0"
        for url in (f"redis://{address}", f"redis://:hush-wrong@{address}", f"redis://full:hush-wrong@{address}"):
            found = redis(url)
            assert (found["redis.login"].state, found["redis.login"].fix) == (
                "fail", "correct user and password in redis.url",
            )  # fmt: skip
            assert found["redis.rights"].seen == "not tried, for redis.login failed"
            assert "hush" not in str(found)
        refused = redis(f"redis://weak:hush@{address}")["redis.rights"]
        assert refused.state == "fail"
        assert "does not let this user set, zadd, pexpire" in refused.seen
        assert "~nametag:* +set +zadd +pexpire" in refused.fix
        allowed = redis(f"redis://full:hush@{address}")
        assert allowed["redis.rights"].state == "ok"
        assert {allowed[f"redis.{name}"].state for name in ("memory", "deletes", "clock")} == {"skipped"}


def test_what_keeps_redis_from_being_a_cache_is_told() -> None:
    """It evicts nothing, it is full, it is a replica, it has no such database."""
    with redis_with("--maxmemory", "50mb") as server:
        check = redis(server.address)["redis.memory"]
        assert (check.state, check.fix) == ("warn", "set its maxmemory-policy to allkeys-lru")
        assert redis(server.address.replace("/0", "/99"))["redis.login"].fix == (
            "correct the number at the end of redis.url"
        )
        with redis_with("--replicaof", "127.0.0.1", str(server.port)) as replica:
            assert "replica" in redis(replica.address)["redis.rights"].seen
    with redis_with("--maxmemory", "1kb", "--maxmemory-policy", "noeviction") as server:
        assert "full" in redis(server.address)["redis.rights"].seen
    with redis_with("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
        assert redis(server.address)["redis.memory"].state == "ok"


def test_a_redis_that_drops_marks_of_deletes_is_told() -> None:
    """Whatever it evicts by, once there is a limit; what to do is to give them one of their own."""
    with redis_with() as server, Redis(port=server.port) as admin:
        for most, policy, state in (
            ("50mb", "allkeys-lru", "warn"),
            ("50mb", "allkeys-lfu", "warn"),
            ("50mb", "volatile-ttl", "warn"),
            ("50mb", "noeviction", "ok"),
            ("0", "allkeys-lru", "ok"),
        ):
            admin.config_set("maxmemory", most)
            admin.config_set("maxmemory-policy", policy)
            check = redis(server.address)["redis.deletes"]
            assert (check.state, policy in check.seen) == (state, True)
            assert check.fix == (
                "set redis.deletes_url to a Redis whose maxmemory-policy is noeviction" if state == "warn" else ""
            )


def test_the_marks_own_redis_is_looked_at(redis_url: str) -> None:
    """As that of the pictures is; of it less is asked, but that it keeps what it has."""
    marks = ("on", ">hush", "~nametag:*", "+get", "+set", "+info", "+client", "+hello", "+ping", "+select")
    with redis_with("--user", "marks", *marks) as server, Redis(port=server.port) as admin:
        address = f"marks:hush@127.0.0.1:{server.port}/0"
        well = redis(redis_url, deletes_url=f"redis://{address}")
        assert {check.state for check in well.values()} <= {"ok", "skipped"}
        assert {
            "redis.clock",
            "deletes.dns",
            "deletes.tcp",
            "deletes.login",
            "deletes.rights",
            "deletes.memory",
        } <= set(well)
        assert "redis.deletes" not in well
        assert "hush" not in str(well)
        admin.config_set("maxmemory", "50mb")
        assert redis(redis_url, deletes_url=f"redis://{address}")["deletes.memory"].state == "ok"
        admin.config_set("maxmemory-policy", "volatile-lru")
        # Also beside pictures in memory.
        alone = {check.name: check for check in check_redis(RedisTable(deletes_url=f"redis://{address}"), seconds=20)}  # type: ignore[arg-type] # pydantic makes it a secret
        assert alone["redis"].state == "skipped"
        assert (alone["deletes.memory"].state, alone["deletes.memory"].fix) == (
            "warn", "set its maxmemory-policy to noeviction",
        )  # fmt: skip
        admin.execute_command("ACL", "SETUSER", "marks", "-set")
        refused = redis(redis_url, deletes_url=f"redis://{address}")["deletes.rights"]
        assert (refused.state, refused.fix) == ("fail", "ACL SETUSER the user ~nametag:* +set")
        wrong = redis(redis_url, deletes_url=f"redis://marks:wrong@127.0.0.1:{server.port}/0")
        assert wrong["deletes.login"].fix == "correct user and password in redis.deletes_url"
        assert wrong["deletes.memory"].state == "skipped"
    closed = redis(redis_url, deletes_url=f"redis://{address}")
    assert closed["deletes.tcp"].fix.endswith("correct the port in redis.deletes_url")
    assert redis(redis_url, deletes_url="ftp://x")["redis.deletes_url"].state == "fail"


def test_what_a_watched_key_names_is_told(tmp_path: Path, redis_url: str) -> None:
    """Nothing yet, a file, one that isn't there, a key of another kind, and a key that may not be read."""
    key = f"doctor:{uuid4().hex}"

    def watched(url: str = redis_url, key: str = key) -> Check:
        checks = check_redis(RedisTable(url=url), watch_key=key, seconds=20)  # type: ignore[arg-type] # pydantic makes it a secret
        return next(check for check in checks if check.name == "redis.watch_key")

    with Redis.from_url(redis_url) as client:
        try:
            assert (watched().state, watched().seen.split("; ")[0]) == ("ok", f"the key {key} isn't set")
            path = tmp_path / "other.safetensors"
            client.set(key, str(path))
            assert (watched().state, watched().seen) == ("warn", f"the key {key} names {path}, which isn't there")
            assert watched().fix == f"SET {key} to the path that a checkpoint has on this machine"
            path.write_bytes(b"x")
            assert (watched().state, watched().seen) == ("ok", f"{path} is there")
            client.set(key, b"\0")
            assert watched().state == "warn"
            client.delete(key)
            client.lpush(key, "x")
            assert "holds no text" in watched().seen
        finally:
            client.delete(key)
    with redis_with("--user", "weak", "on", ">hush", "~nametag:*", "+@all") as server:
        refused = watched(f"redis://weak:hush@127.0.0.1:{server.port}/0", "elsewhere")
    assert (refused.state, refused.fix) == ("warn", "ACL SETUSER the user ~elsewhere +get")


def test_redis_with_tls_is_told_from_one_without(tmp_path: Path) -> None:
    """In both directions, and with the authority that is needed."""
    authority = Authority(tmp_path)
    pair = authority.sign("redis")
    words = ("--tls-port", "{extra}", "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key))
    trusted = f"?ssl_ca_certs={authority.certificate}"
    with redis_with(*words, "--tls-auth-clients", "no") as server:
        well = redis(f"rediss://127.0.0.1:{server.extra}/0{trusted}")
        assert {check.state for check in well.values()} == {"ok"}
        assert redis(f"rediss://127.0.0.1:{server.extra}/0")["redis.tls"].fix.startswith("set ssl_ca_certs=")
        plain = redis(f"redis://127.0.0.1:{server.extra}/0")["redis.login"]
        assert plain.fix == "write rediss:// in redis.url"
        secure = redis(f"rediss://127.0.0.1:{server.port}/0{trusted}")["redis.tls"]
        assert secure.fix == "name the port of Redis that speaks TLS, or write redis:// in redis.url"


def test_sentinels_and_clusters_are_asked_as_the_worker_asks_them() -> None:
    """A sentinel that knows no such master is told; a cluster of one is well."""
    with redis_with() as master:
        config = f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        with redis_with("--sentinel", config=config) as sentinel:
            watched = (f"127.0.0.1:{sentinel.port}",)
            well = redis("redis://mymaster/0", sentinels=watched)
            assert {check.state for check in well.values()} == {"ok"}
            wrong = redis("redis://another/0", sentinels=watched)["redis.login"]
            assert wrong.fix == "correct redis.sentinels, or the name in redis.url"
    with redis_with("--cluster-enabled", "yes", "--cluster-port", "{extra}") as node:
        with Redis(port=node.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 20
            while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.1)
        well = redis(f"redis://127.0.0.1:{node.port}", cluster=True)
        assert {name: check.state for name, check in well.items() if check.state not in ("ok", "skipped")} == {}
