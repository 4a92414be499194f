"""Whether a server can be had: names, ports, TLS and certificates, each told with its own remedy."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from consumers.checks import Check, Checklist, Found, Trouble, Untold, ok
from consumers.kafka_checks import check_kafka
from consumers.kafka_cluster_checks import KafkaNeeds, compare_clocks
from consumers.kafka_connection import KafkaConnection
from consumers.network_checks import Server, resolve
from tests.certificates import Authority, Pair
from worker.redis_checks import check_redis
from worker.settings import RedisTable

Serve = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for the certificates of this module."""
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """A server on loopback that does `serve` with each connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=guarded, args=(peer,), daemon=True).start()

        def guarded(peer: socket.socket) -> None:
            with peer, suppress(OSError):
                serve(peer)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def silent(peer: socket.socket) -> None:
    """Takes whatever comes, and says nothing."""
    while peer.recv(4096):
        pass


def web_server(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def secured(pair: Pair) -> Serve:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)

    def serve(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as inside:
            silent(inside)

    return serve


def closed_port() -> int:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


def kafka(address: str, **fields: Any) -> dict[str, Check]:
    checks = check_kafka(KafkaConnection(bootstrap_servers=(address,), **fields), KafkaNeeds(), seconds=15)
    return {check.name: check for check in checks}


def redis(url: str, **fields: Any) -> dict[str, Check]:
    return {check.name: check for check in check_redis(RedisTable(url=url, **fields), seconds=15)}


def test_a_name_that_nobody_knows_is_told() -> None:
    """Of brokers and Redis; what follows from it isn't tried."""
    found = kafka("nobody.invalid:9092")
    assert (found["kafka.dns"].state, found["kafka.dns"].fix) in [
        ("fail", "correct the name in kafka.bootstrap_servers"),
        ("fail", "look at /etc/resolv.conf and the way to the name server it names"),
    ]
    assert found["kafka.tcp"].seen == found["kafka.topics"].seen == "not tried, for kafka.dns failed"
    assert redis("redis://nobody.invalid/0")["redis.dns"].state == "fail"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(host: str) -> None:
    """There is nothing to tell of it, and no name server is asked."""
    assert resolve(Server(host, 1, "s")).seen == f"{host} is an address, no name"
    assert resolve(Server("localhost", 1, "s")).seen.startswith("localhost is ")


@pytest.mark.parametrize("address", ["host:port", "host:0", "host:70000", ":9092"])
def test_what_is_no_address_is_told(address: str) -> None:
    """Before anything is looked up."""
    found = kafka(address)["kafka.dns"]
    assert (found.state, found.fix) == ("fail", "correct kafka.bootstrap_servers")
    assert address in found.seen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("a", "a", 9092), ("a:1", "a", 1), ("[::1]:2", "::1", 2), ("::1", "::1", 9092), ("[::1]", "::1", 9092)],
)
def test_addresses_are_read_as_the_client_reads_them(text: str, host: str, port: int) -> None:
    """With and without a port, and of both kinds."""
    server = Server.parse(text, 9092, "s")
    assert (server.host, server.port) == (host, port)


def test_a_closed_port_is_told() -> None:
    """Nothing listens: the name is fine, the port isn't."""
    port = closed_port()
    found = kafka(f"127.0.0.1:{port}")
    assert found["kafka.dns"].state == "ok"
    assert found["kafka.tcp"].seen == f"nothing listens at 127.0.0.1:{port}"
    assert "port in kafka.bootstrap_servers" in found["kafka.tcp"].fix
    assert "port in redis.url" in redis(f"redis://127.0.0.1:{port}")["redis.tcp"].fix


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL"])
def test_a_server_that_says_nothing_holds_nothing_up(protocol: str) -> None:
    """It takes the connection, and that is all: told within seconds, over TLS as well."""
    began = time.monotonic()
    with listening(silent) as port:
        found = kafka(f"127.0.0.1:{port}", security_protocol=protocol)
        asked = redis(f"{'rediss' if protocol == 'SSL' else 'redis'}://127.0.0.1:{port}")
    failed = found["kafka.version" if protocol == "PLAINTEXT" else "kafka.tls"]
    assert failed.state == "fail"
    assert "says nothing" in failed.seen
    assert failed.fix
    assert "says nothing" in asked["redis.login" if protocol == "PLAINTEXT" else "redis.tls"].seen
    assert time.monotonic() - began < 15


def test_what_speaks_no_kafka_is_told() -> None:
    """A web server answers, with TLS or without, and is taken for no broker, nor for a Redis."""
    with listening(web_server) as port:
        found = kafka(f"127.0.0.1:{port}")["kafka.version"]
        over_tls = kafka(f"127.0.0.1:{port}", security_protocol="SSL")["kafka.tls"]
        login = redis(f"redis://127.0.0.1:{port}")["redis.login"]
    assert "no Kafka is spoken there" in found.seen
    assert found.fix == "name a broker in kafka.bootstrap_servers"
    assert "speaks no TLS" in over_tls.seen
    assert over_tls.fix == "name the broker's port that speaks TLS, or set kafka.security_protocol to PLAINTEXT"
    assert "speaks no Redis" in login.seen


def test_a_port_with_tls_is_told_from_one_without(authority: Authority) -> None:
    """The settings say plain text, and the port speaks TLS."""
    with listening(secured(authority.sign("plain"))) as port:
        found = kafka(f"127.0.0.1:{port}")["kafka.version"]
        login = redis(f"redis://127.0.0.1:{port}")["redis.login"]
    assert (found.seen, found.fix) == (f"127.0.0.1:{port} speaks TLS", "set kafka.security_protocol to SSL")
    assert (login.seen, login.fix) == (f"127.0.0.1:{port} speaks TLS", "write rediss:// in redis.url")


CERTIFICATES: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": ({"from_day": -9}, "has expired", "renew the certificate"),
    "early": ({"from_day": 5}, "isn't valid yet", "set this machine's clock"),
    "elsewhere": ({"names": "DNS:elsewhere.example"}, "is not for the name 127.0.0.1", "that is on the certificate"),
    "unknown": ({}, "from an authority that isn't trusted here", "set {cafile} to the PEM file of the authority"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_what_is_wrong_with_a_certificate_is_told(case: str, authority: Authority) -> None:
    """Expired, not valid yet, of another name, of an unknown authority: each has its own remedy."""
    fields, seen, fix = CERTIFICATES[case]
    trusted = None if case == "unknown" else str(authority.certificate)
    with listening(secured(authority.sign(case, **fields))) as port:
        found = kafka(f"127.0.0.1:{port}", security_protocol="SSL", ssl_cafile=trusted)["kafka.tls"]
        options = f"?ssl_ca_certs={trusted}" if trusted else ""
        asked = redis(f"rediss://127.0.0.1:{port}/0{options}")["redis.tls"]
    assert found.state == asked.state == "fail"
    assert seen in found.seen
    assert seen in asked.seen
    assert fix.format(cafile="kafka.ssl_cafile") in found.fix
    assert fix.format(cafile="ssl_ca_certs=… in redis.url") in asked.fix


def test_a_certificate_that_is_trusted_is_well(authority: Authority) -> None:
    """The handshake is well; that no broker answers behind it is another matter."""
    with listening(secured(authority.sign("well"))) as port:
        found = kafka(f"127.0.0.1:{port}", security_protocol="SSL", ssl_cafile=str(authority.certificate))
    assert found["kafka.tls"].state == "ok"
    assert found["kafka.version"].state == "fail"


@pytest.mark.parametrize("name", ["ssl_cafile", "ssl_certfile"])
def test_a_pem_file_that_cannot_be_used_is_told(name: str, tmp_path: Path, authority: Authority) -> None:
    """One that isn't there, and one that is something else."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    with listening(secured(authority.sign("pem"))) as port:
        for path, reason in ((tmp_path / "none.pem", "No such file"), (empty, "no PEM file of that kind")):
            found = kafka(f"127.0.0.1:{port}", security_protocol="SSL", **{name: str(path)})["kafka.tls"]
            assert found.state == "fail"
            assert reason in found.seen
            assert found.fix == f"set kafka.{name} to a PEM file that can be read"


@pytest.mark.parametrize(
    "url",
    ["redis://h:port/0", "http://me:hush@h", "redis://me:hu/sh@h", "redis://h/0?hush=1", "redis://me:hush@h:99999"],
)
def test_a_url_that_no_redis_has_is_told_without_its_password(url: str) -> None:
    """Nothing is looked up, and nothing of what may be a secret is shown."""
    found = redis(url)
    assert found["redis.url"].state == "fail"
    assert found["redis.login"].seen == "not tried, for redis.url failed"
    assert "redis.url" in found["redis.url"].fix
    assert "me:hu" not in str(found)


@pytest.mark.parametrize(
    ("theirs", "state", "word"), [(50.0, "ok", ""), (40.0, "warn", "ahead"), (63.0, "warn", "behind")]
)
def test_clocks_that_are_apart_are_told(theirs: float, state: str, word: str) -> None:
    """What the answer took to come counts for neither side."""
    found = compare_clocks(theirs, before=49.0, after=52.0, whose="theirs")
    assert (found.state, word in found.seen) == (state, True)


def old_broker(peer: socket.socket) -> None:
    """Answers what versions it has, which are those of a Kafka 2.3, and nothing else."""
    versions = ((0, 0, 7), (1, 0, 11), (2, 0, 5), (3, 0, 8), (18, 0, 2), (23, 0, 3))
    size = int.from_bytes(peer.recv(4))
    question = peer.recv(size)
    answer = question[4:8] + struct.pack(">hi", 0, len(versions))
    answer += b"".join(struct.pack(">hhh", *each) for each in versions)
    peer.sendall(struct.pack(">i", len(answer)) + answer)
    silent(peer)


def test_an_old_broker_is_told_and_one_that_stops_answering_is_given_up() -> None:
    """A warning where its transactions are too old, and none where none are wanted."""
    with listening(old_broker) as port:
        connection = KafkaConnection(bootstrap_servers=(f"127.0.0.1:{port}",))
        checks = check_kafka(connection, KafkaNeeds(transactional_id="x"), seconds=20)
        found = {check.name: check for check in checks}
        without = kafka(f"127.0.0.1:{port}")
    assert found["kafka.version"].state == "warn"
    assert found["kafka.version"].fix == "upgrade the brokers, or set kafka.delivery to at_least_once"
    assert (found["kafka.login"].state, found["kafka.login"].seen[:9]) == ("fail", "no answer")
    assert without["kafka.version"].state == "ok"


def test_a_look_up_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that says nothing is the system's to wait for; the doctor goes on."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_words, **_more: time.sleep(60))
    began = time.monotonic()
    found = kafka("slow.example:9092")["kafka.dns"]
    assert (found.state, found.fix) == ("fail", "look at the way to the name server")
    assert time.monotonic() - began < 10


def test_a_check_ends_in_time_whatever_it_does() -> None:
    """It hangs, or breaks off with words that are a secret: told, and what needs it is left out."""
    checklist = Checklist(5.0)

    def breaks_off() -> Found:
        raise RuntimeError("hush")

    def untold() -> Found:
        raise Untold("not told")

    def hangs() -> Found:
        time.sleep(60)
        return ok("late")

    hung = checklist.do("hangs", hangs, late="do something", seconds=0.2)
    assert (hung.state, hung.fix) == ("fail", "do something")
    assert checklist.do("next", lambda: ok(""), late="", needs=(hung,)).seen == "not tried, for hangs failed"
    assert "hush" not in str(checklist.do("breaks", breaks_off, late="look"))
    skipped = checklist.do("untold", untold, late="")
    assert (skipped.state, skipped.cause) == ("skipped", None)
    assert Checklist(0.0).do("late", lambda: ok(""), late="").seen == "not tried, for no time was left"
    with pytest.raises(Trouble):
        raise Trouble("seen", "fix")
