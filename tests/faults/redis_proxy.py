"""A TCP proxy in front of Redis that hangs, answers late, or with what stands under another key."""

import contextlib
import socket
import threading
import time

LATE_SECONDS = 0.4
"""Longer than the worker waits, and short enough for the answer to meet the connection's next user."""

CHUNK = 1 << 16


class RedisProxy:
    """Passes all on; `mode` is normal, hang, late or wrong_reply."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.mode = "normal"
        self._other: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What the worker is told."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._port), 1)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
        self._pass(server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        replies = Replies()
        try:
            while data := source.recv(CHUNK):
                while self.mode == "hang":
                    time.sleep(0.02)
                if not answers:
                    sink.sendall(data)
                    continue
                for reply in replies.split(data):
                    if self.mode == "late":
                        time.sleep(LATE_SECONDS)
                    sink.sendall(self._chosen(reply))
        except OSError:
            pass  # either end is gone; so is the other then
        finally:
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _chosen(self, reply: bytes) -> bytes:
        """The reply; or, where it is a value and the mode says so, the last value that was another."""
        if not reply.startswith(b"$") or reply.startswith(b"$-"):
            return reply
        other = self._other
        if self.mode == "wrong_reply" and other is not None and other != reply:
            return other
        self._other = reply
        return reply


class Replies:
    """Cuts a stream of RESP into whole replies."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[bytes]:
        """The replies that are whole now."""
        self._rest += data
        replies = []
        while (end := _end(self._rest, 0)) is not None:
            replies.append(self._rest[:end])
            self._rest = self._rest[end:]
        return replies


def _end(data: bytes, start: int) -> int | None:
    """Where the reply that begins at `start` ends; None where it isn't whole yet."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, after = data[start : start + 1], line + 2
    if kind not in b"$*%~>=" or data[start + 1 : line] == b"-1":
        return after
    length = int(data[start + 1 : line])
    if kind in b"$=":
        return after + length + 2 if len(data) >= after + length + 2 else None
    end: int | None = after
    for _ in range(2 * length if kind == b"%" else length):
        if end is None:
            return None
        end = _end(data, end)
    return end
