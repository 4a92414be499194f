"""The fault harness's own parts: the names it relies on, Redis's replies, the image host's moods."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults import stepped_worker
from tests.faults.image_host import ImageHost
from tests.faults.plan import STEPS
from tests.faults.redis_proxy import RedisProxy, Replies
from tests.faults.stepped_worker import Place


def test_every_name_is_in_the_worker() -> None:
    """And every step has a place, so that a strike at it can hit."""
    stepped_worker.check_places()
    steps = {step for place in stepped_worker.PLACES for step in (place.before, place.after)}
    assert steps - {None} == set(STEPS)


def test_a_renamed_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which name is gone, and where the table is."""
    gone = Place("worker.pipeline", "Pipeline", "_no_such_step", None, "after_prepare")
    monkeypatch.setattr(stepped_worker, "PLACES", (gone,))
    with pytest.raises(stepped_worker.Renamed, match=r"Pipeline\._no_such_step .* PLACES"):
        stepped_worker.check_places()


def test_replies_are_cut_wherever_the_bytes_are() -> None:
    """A reply is whole only with its last byte, nested or not."""
    replies = [b"+OK\r\n", b"$3\r\na\r\n\r\n", b"$-1\r\n", b":7\r\n", b"*2\r\n$1\r\nx\r\n*1\r\n:1\r\n", b"-ERR no\r\n"]
    for size in (1, 2, 5, 100):
        stream, cutter, found = b"".join(replies), Replies(), []
        for start in range(0, len(stream), size):
            found += cutter.split(stream[start : start + size])
        assert found == replies


@pytest.fixture
def proxy() -> Iterator[RedisProxy]:
    """In front of a Redis that answers each line with itself as a value."""

    def serve(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as lines:
            for line in lines:
                key = line.strip()
                peer.sendall(b"$%d\r\n%s\r\n" % (len(key), key))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        proxy = RedisProxy(server.getsockname()[1])
        yield proxy
        proxy.close()


def test_the_proxy_gives_another_keys_reply_and_hangs(proxy: RedisProxy) -> None:
    """As told, from one moment to the next; the connection lives on."""
    port = int(proxy.url.rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), 5) as client:

        def ask(key: bytes) -> bytes:
            client.sendall(key + b"\n")
            return client.recv(100)

        assert ask(b"one") == b"$3\r\none\r\n"
        proxy.mode = "wrong_reply"
        assert ask(b"two") == b"$3\r\none\r\n"
        proxy.mode = "hang"
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(b"three")
        proxy.mode = "normal"
        client.settimeout(5)
        assert client.recv(100) == b"$5\r\nthree\r\n"


def test_the_image_host_goes_down_cuts_and_comes_back() -> None:
    """On the same port each time."""
    host = ImageHost([b"x" * 100, b"y"])
    port = int(host.origin.rpartition(":")[2])

    def get(path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().read()

    try:
        assert (get("/run/0.jpg"), get("/run/1.jpg")) == (b"x" * 100, b"y")
        host.set_mode("cut")
        with pytest.raises(http.client.IncompleteRead):
            get("/run/0.jpg")
        host.set_mode("down")
        with pytest.raises(ConnectionError):
            get("/run/0.jpg")
        host.set_mode("normal")
        assert get("/run/1.jpg") == b"y"
    finally:
        host.close()
